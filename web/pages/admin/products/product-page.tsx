import { View } from '../view';

export default function ProductPage({ id }: { id: string }) {
  return <View title={`Product ${id}`} back={{ href: '/products', label: 'Products' }}>{null}</View>;
}
