import type { Period } from './period';

export const ClientTiles = (_: { period: Period; changes: number }) => null;
