import { View } from '../view';

export default function OrderPage({ id }: { id: string }) {
  return <View title={`Order ${id}`} back={{ href: '/orders', label: 'Orders' }}>{null}</View>;
}
