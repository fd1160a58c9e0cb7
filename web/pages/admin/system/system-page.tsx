import { View } from '../view';

export default function SystemPage() {
  return <View title="System">{null}</View>;
}
