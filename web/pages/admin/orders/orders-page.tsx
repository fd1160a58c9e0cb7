import { Button, EmptyState } from '@mantine/core';
import { IconFilterOff, IconReceipt } from '@tabler/icons-react';
import { View } from '../view';
import { useExport } from './export';
import { FilterBar, useFilters } from './filters';
import { OrdersTable } from './orders-table';

export default function OrdersPage() {
  const filtering = useFilters();
  const { filters, clear } = filtering;
  const { exportButton, exportState } = useExport(filters);
  const isFiltered = Object.keys(filters).length > 0;
  return (
    <View title="Orders" actions={exportButton}>
      <FilterBar {...filtering} />
      {exportState}
      <OrdersTable
        filters={filters}
        empty={
          isFiltered ? (
            <EmptyState icon={<IconFilterOff aria-hidden />} title="No order matches" description={filters.id ? 'Check the order id.' : 'Change the filters.'}>
              <EmptyState.Actions><Button variant="default" onClick={clear}>Show all orders</Button></EmptyState.Actions>
            </EmptyState>
          ) : (
            <EmptyState icon={<IconReceipt aria-hidden />} title="There are no orders yet" description="Orders of the shop are listed here as soon as they are placed.">
              <EmptyState.Actions><Button component="a" href="/shop" variant="default">Open the shop</Button></EmptyState.Actions>
            </EmptyState>
          )
        }
      />
    </View>
  );
}
