// Findings of cdk-nag that are right here. Each has its reason beside the resource.

import { Validations } from 'aws-cdk-lib';
import type { IConstruct } from 'constructs';

/** Explains findings of a construct and of those inside it, by their ids. */
export function acknowledge(construct: IConstruct, reasons: Record<string, string>): void {
  Validations.of(construct).acknowledge(...Object.entries(reasons).map(([id, reason]) => ({ id, reason })));
}
