import { Badge } from '@mantine/core';
import type { OrderStatus } from '../generated/graphql';

/** The words for each status, and its colour. */
export const STATUS: Record<OrderStatus, [string, string]> = {
  PLACED: ['Placed', 'blue'],
  CANCELLED: ['Cancelled', 'red'],
  PARTIALLY_REFUNDED: ['Partly refunded', 'yellow'],
  REFUNDED: ['Refunded', 'gray'],
};

export function Status({ status }: { status: OrderStatus }) {
  const [text, color] = STATUS[status];
  return <Badge variant="light" color={color} tt="none" size="lg">{text}</Badge>;
}
