import { View } from '../view';

export default function OverviewPage() {
  return <View title="Overview">{null}</View>;
}
