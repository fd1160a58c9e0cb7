import { Badge, Button, EmptyState, NativeSelect, Text } from '@mantine/core';
import { IconPackage, IconSearchOff } from '@tabler/icons-react';
import { useMemo } from 'react';
import { Link, useLocation, useSearchParams } from 'wouter';
import { AdminProductsDocument, type AdminProductRowFragment, type AdminProductsQuery } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { DialogButton } from '../change';
import { PagedTable, type Column, type Source } from '../parts/paged-table';
import classes from '../parts/parts.module.css';
import { SearchInput } from '../parts/search-input';
import { useParam } from '../parts/use-param';
import { View } from '../view';
import { CreateForm } from './product-changes';

const PAGE = 50;

export default function ProductsPage() {
  const [, navigate] = useLocation();
  const [, setParams] = useSearchParams();
  const [search, setSearch] = useParam('search');
  const [offered, setOffered] = useParam('offered');
  const create = (
    <DialogButton label="New product" title="Create a product" variant="filled" isOffered={useSession().may('products:write')}>
      <CreateForm onDone={({ productId }) => navigate(`/products/${productId}`, { state: { isNew: true } })} />
    </DialogButton>
  );
  return (
    <View title="Products" actions={create}>
      <div className={classes.filters}>
        <SearchInput label="Search" placeholder="Beginning of a word of the name, or of the SKU" value={search} onSearch={setSearch} />
        <NativeSelect
          label="Availability"
          data={[{ value: '', label: 'All' }, { value: 'yes', label: 'Offered' }, { value: 'no', label: 'Withdrawn' }]}
          value={offered}
          onChange={({ currentTarget }) => setOffered(currentTarget.value)}
        />
      </div>
      <ProductsTable search={search} offered={offered} onClear={() => setParams({}, { replace: true })} />
    </View>
  );
}

function ProductsTable({ search, offered, onClear }: { search: string; offered: string; onClear: () => void }) {
  const columns = useColumns();
  const source = useMemo<Source<AdminProductsQuery, AdminProductRowFragment>>(
    () => ({
      query: AdminProductsDocument,
      variables: { search: search || null, available: offered ? offered === 'yes' : null, first: PAGE },
      pageOf: ({ products }) => products,
      keyOf: ({ id }) => id,
      columns,
    } as Source<AdminProductsQuery, AdminProductRowFragment>),
    [search, offered, columns],
  );
  const empty = search || offered ? (
    <EmptyState icon={<IconSearchOff aria-hidden />} title="No product matches" description="Try the beginning of a word of the name.">
      <EmptyState.Actions><Button variant="default" onClick={onClear}>Show all products</Button></EmptyState.Actions>
    </EmptyState>
  ) : (
    <EmptyState icon={<IconPackage aria-hidden />} title="There are no products yet" description="Create the first one with “New product”." />
  );
  return <PagedTable label="Products" name="products" unit={['product', 'products']} source={source} empty={empty} />;
}

function useColumns(): Column<AdminProductRowFragment>[] {
  const { money } = useFormat();
  return useMemo(
    () => [
      {
        header: 'Product',
        cell: ({ id, name }) => <Link href={`/products/${id}`} className={`${classes.rowLink} ${classes.clamp}`}>{name}</Link>,
      },
      { header: 'SKU', width: 12, cell: ({ sku }) => (sku ? <Text inherit className={classes.clamp}>{sku}</Text> : '–') },
      { header: 'Availability', width: 9, cell: Availability },
      { header: 'Price', width: 11, isNumber: true, cell: ({ price }) => money(price) },
    ],
    [money],
  );
}

export const Availability = ({ available }: { available: boolean }) => (
  <Badge variant="light" color={available ? 'green' : 'gray'} tt="none" size="lg">{available ? 'Offered' : 'Withdrawn'}</Badge>
);
