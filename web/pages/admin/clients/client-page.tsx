import { View } from '../view';

export default function ClientPage({ id }: { id: string }) {
  return <View title={`Client ${id}`} back={{ href: '/clients', label: 'Clients' }}>{null}</View>;
}
