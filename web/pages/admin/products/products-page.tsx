import { View } from '../view';

export default function ProductsPage() {
  return <View title="Products">{null}</View>;
}
