import { View } from '../view';

export default function OrdersPage() {
  return <View title="Orders">{null}</View>;
}
