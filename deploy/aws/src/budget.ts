// An e-mail before the costs exceed what was planned.

import * as budgets from 'aws-cdk-lib/aws-budgets';
import type { Construct } from 'constructs';

/** Watches the costs of the whole account: those of one stack need a tag that is activated for cost allocation first. */
export function addBudget(scope: Construct, amount: number, email: string): void {
  const notify = (notificationType: string, threshold: number) => ({
    notification: { notificationType, comparisonOperator: 'GREATER_THAN', threshold, thresholdType: 'PERCENTAGE' },
    subscribers: [{ subscriptionType: 'EMAIL', address: email }],
  });
  new budgets.CfnBudget(scope, 'Budget', {
    budget: { budgetType: 'COST', timeUnit: 'MONTHLY', budgetLimit: { amount, unit: 'USD' } },
    notificationsWithSubscribers: [notify('ACTUAL', 80), notify('FORECASTED', 100)],
  });
}
