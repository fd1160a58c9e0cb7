import { View } from '../view';

export default function ClientsPage() {
  return <View title="Clients">{null}</View>;
}
