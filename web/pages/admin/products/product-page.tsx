// The page of a product: its price, whether it is offered, and its history.
import { Alert, Button, EmptyState, Paper, Skeleton, Stack, Title } from '@mantine/core';
import { IconMapQuestion } from '@tabler/icons-react';
import { useMemo, useState } from 'react';
import { useQuery } from 'urql';
import { Link } from 'wouter';
import { useHistoryState } from 'wouter/use-browser-location';
import { AdminProductDocument, AdminProductHistoryDocument, type AdminProductHistoryQuery, type AdminProductRowFragment } from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { DialogButton, Notice } from '../change';
import { History } from '../parts/history';
import classes from '../parts/parts.module.css';
import { View } from '../view';
import { EditForm, OfferButton } from './product-changes';
import { ProductSales } from './product-sales';
import { Availability } from './products-page';

const BACK = { href: '/products', label: 'Products' };
const EVENTS = 20;

export default function ProductPage({ id }: { id: string }) {
  const session = useSession();
  const mayWrite = session.may('products:write');
  // Queries may not have a product yet that has just been created, but the cache has it.
  const isNew = useHistoryState<{ isNew?: boolean } | null>()?.isNew ?? false;
  const [{ data, error }, read] = useQuery({ query: AdminProductDocument, variables: { id }, requestPolicy: isNew ? 'cache-first' : 'cache-and-network' });
  const [notice, setNotice] = useState(isNew ? 'The product is created.' : undefined);
  const [problem, setProblem] = useState<string>();
  const product = data?.product;
  const failure = error && <Problem title="The product cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />;
  if (!product) {
    return (
      <View title="Product" back={BACK}>
        {failure}
        {!data && !error && <Skeleton height={160} radius="md" role="status" aria-hidden={false} aria-label="Loading the product" />}
        {data && !product && (
          <EmptyState icon={<IconMapQuestion aria-hidden />} title="There is no such product" description="The link may be incomplete.">
            <EmptyState.Actions><Button component={Link} href="/products" variant="default">Show all products</Button></EmptyState.Actions>
          </EmptyState>
        )}
      </View>
    );
  }
  const done = (text: string) => {
    setProblem(undefined);
    setNotice(text);
  };
  const actions = (
    <>
      <DialogButton label="Edit" title="Edit the product" isOffered={mayWrite}><EditForm product={product} onDone={done} /></DialogButton>
      {mayWrite && <OfferButton product={product} onDone={done} onProblem={setProblem} />}
    </>
  );
  return (
    <View title={product.name} heading={<>{product.name} <Availability available={product.available} /></>} back={BACK} actions={actions}>
      {problem ? <Alert color="red" role="alert" title="The product was not changed" mb="md">{problem}</Alert> : <Notice>{notice}</Notice>}
      <Stack>
        {failure}
        <Facts product={product} />
        {session.may('sales:read') && <ProductSales id={id} />}
        <Title order={2} mt="md">History</Title>
        <ProductHistory product={product} />
      </Stack>
    </View>
  );
}

function Facts({ product: { id, sku, price } }: { product: AdminProductRowFragment }) {
  const { money } = useFormat();
  return (
    <Paper withBorder p="md" component="section" aria-label="Product" className={classes.panel}>
      <dl className={classes.facts}>
        <div><dt>Price</dt><dd>{money(price)}</dd></div>
        <div><dt>SKU</dt><dd>{sku ?? 'None'}</dd></div>
        <div><dt>Product id</dt><dd>{id}</dd></div>
      </dl>
    </Paper>
  );
}

function ProductHistory({ product }: { product: AdminProductRowFragment }) {
  const { id, name, sku, available, price } = product;
  const source = useMemo(
    () => ({ query: AdminProductHistoryDocument, variables: { id, first: EVENTS }, pageOf: ({ product }: AdminProductHistoryQuery) => product?.history }),
    [id],
  );
  return <History source={source} revision={JSON.stringify([name, sku, available, price.amount])} currencyCode={price.currencyCode} />;
}
