import { Button, CloseButton, EmptyState, Paper, Skeleton, Text, TextInput, Title, VisuallyHidden } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconCheck, IconPlus, IconSearch, IconSearchOff } from '@tabler/icons-react';
import { useState } from 'react';
import { useQuery } from 'urql';
import { Link } from 'wouter';
import { ShopProductsDocument, type ProductCardFragment } from '../generated/graphql';
import { Problem } from '../shared/errors';
import { useFormat } from '../shared/format';
import { MAX_QUANTITY, useCart, useCartTotal } from './cart';
import { CartPanel } from './cart-page';
import classes from './shop.module.css';
import { View } from './view';

export function ProductsPage() {
  const [search, setSearch] = useState('');
  const [searched] = useDebouncedValue(search.trim(), 250);
  return (
    <View title="Products" isWide>
      <div className={classes.columns}>
        <section aria-label="Products">
          <TextInput
            type="search"
            aria-label="Search products"
            placeholder="Search by name or SKU"
            size="md"
            maxLength={200}
            leftSection={<IconSearch size={18} aria-hidden />}
            rightSection={search && <CloseButton aria-label="Clear the search" onClick={() => setSearch('')} />}
            value={search}
            onChange={({ currentTarget }) => setSearch(currentTarget.value)}
          />
          <Products key={searched} search={searched} onClear={() => setSearch('')} />
        </section>
        <Paper component="aside" withBorder p="md" className={classes.side} aria-label="Cart">
          <Title order={2} size="h3">Cart</Title>
          <CartPanel />
        </Paper>
      </div>
      <CartBar />
    </View>
  );
}

function Products({ search, onClear }: { search: string; onClear: () => void }) {
  const [after, setAfter] = useState<string | null>(null);
  const [{ data, error, fetching, stale }, read] = useQuery({
    query: ShopProductsDocument,
    variables: { search: search || null, after },
    requestPolicy: 'cache-and-network',
  });
  const { count } = useFormat();
  const products = data?.products?.nodes;
  const page = data?.products?.pageInfo;
  const problem = error && (
    <Problem title="The products cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />
  );
  if (!products) return problem ?? <ProductSkeletons />;
  return (
    <>
      <Text role="status" size="sm" c="dimmed">
        {search && `${count(products.length, 'product')}${page?.hasNextPage ? ' or more' : ''} for “${search}”`}
      </Text>
      {problem}
      {products.length === 0 && (
        <EmptyState
          icon={<IconSearchOff aria-hidden />}
          title={search ? 'No product matches' : 'There are no products yet'}
          description={search ? 'Try the beginning of a word of its name.' : 'Create some in the back office.'}
        >
          {search && <EmptyState.Actions><Button variant="default" onClick={onClear}>Show all products</Button></EmptyState.Actions>}
        </EmptyState>
      )}
      <ul className={classes.cards} aria-busy={fetching || stale}>
        {products.map((product) => <ProductCard key={product.id} product={product} />)}
      </ul>
      {page?.hasNextPage && (
        <Button variant="default" fullWidth mt="md" loading={fetching} onClick={() => setAfter(page.endCursor ?? null)}>
          Show more products
        </Button>
      )}
    </>
  );
}

function ProductCard({ product: { id, name, sku, price } }: { product: ProductCardFragment }) {
  const { money, number } = useFormat();
  const cart = useCart();
  const index = cart.values.lines.findIndex((line) => line.id === id);
  const quantity = Number(cart.values.lines[index]?.quantity ?? 0);
  const add = () => {
    if (index < 0) cart.insertListItem('lines', { id, name, price, quantity: 1 });
    else cart.setFieldValue(`lines.${index}.quantity`, Math.min(quantity + 1, MAX_QUANTITY));
  };
  return (
    <Paper component="li" withBorder className={classes.card}>
      <div className={classes.picture} data-tint={Number(id) % 6} aria-hidden>{initials(name)}</div>
      <div className={classes.cardBody}>
        <h2 className={classes.name}>{name}</h2>
        {sku && <Text size="xs" c="dimmed">{sku}</Text>}
        <Text fw={650} size="lg" className={`number ${classes.price}`}>{money(price)}</Text>
        <Button
          fullWidth
          variant={quantity > 0 ? 'light' : 'filled'}
          leftSection={quantity > 0 ? <IconCheck size={16} aria-hidden /> : <IconPlus size={16} aria-hidden />}
          onClick={add}
        >
          {quantity > 0 ? `${number(quantity)} in the cart` : 'Add to cart'}
          <VisuallyHidden>{quantity > 0 ? `Add another ${name}` : name}</VisuallyHidden>
        </Button>
      </div>
    </Paper>
  );
}

/** Up to two letters in the place of a picture. */
const initials = (name: string) => name.split(/\s+/, 2).map((word) => [...word][0] ?? '').join('').toUpperCase();

const ProductSkeletons = () => (
  <div className={classes.cards} role="status" aria-label="Loading the products">
    {Array.from({ length: 8 }, (_, index) => <Skeleton key={index} height={250} radius="md" />)}
  </div>
);

/** On a narrow screen: what is in the cart, always in view. */
function CartBar() {
  const { count, total } = useCartTotal();
  const format = useFormat();
  if (count === 0) return null;
  return (
    <div className={classes.bar}>
      <span className={classes.barTotal}>
        <span>{format.count(count, 'unit')}</span>
        <strong className="number">{total && format.money(total)}</strong>
      </span>
      <Button component={Link} href="/cart">View the cart</Button>
    </div>
  );
}
