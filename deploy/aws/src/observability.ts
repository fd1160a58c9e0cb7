// Alarms and a dashboard. Most use metrics that AWS measures itself; those of the programs need a collector.

import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { ComparisonOperator, TreatMissingData } from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import type * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sns from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import { Duration } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import type { Options, Range } from './options.js';
import type { Services } from './services.js';
import type { Stores } from './tasks.js';

const RUNBOOK = 'docs/operations.md';
const MINUTE = { period: Duration.minutes(1) };
const LARGEST = { ...MINUTE, statistic: 'Maximum' };

interface Condition {
  readonly metric: cloudwatch.IMetric;
  /** The alarm is for values above it, or for values below it. */
  readonly above?: number;
  readonly below?: number;
  /** Whether it is also an alarm when the metric has no value. */
  readonly alsoWithoutValue?: boolean;
  /** For how many minutes. */
  readonly minutes: number;
  readonly meaning: string;
}

/**
 * The limit of connections to the database, which depends on the largest capacity, a little below the table in
 * https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-serverless-v2.setting-capacity.html
 */
function largestConnections({ min, max }: Range): number {
  return Math.min(185 * max, min < 1 ? 2000 : 5000);
}

export class Observability extends Construct {
  readonly topic: sns.Topic;
  private readonly alarms: cloudwatch.Alarm[] = [];
  private readonly failedOperations: cloudwatch.Metric;

  constructor(
    scope: Construct,
    id: string,
    private readonly stores: Stores,
    private readonly services: Services,
    private readonly projector: lambda.Function | undefined,
    log: logs.LogGroup,
    private readonly options: Options,
  ) {
    super(scope, id);
    // A failed operation may have the HTTP status 200, so the load balancer does not count it.
    const failed = log.addMetricFilter('FailedOperations', {
      filterPattern: logs.FilterPattern.stringValue('$.outcome', '=', 'failed'),
      metricNamespace: options.name,
      metricName: 'FailedOperations',
      defaultValue: 0,
    });
    this.failedOperations = failed.metric({ ...MINUTE, statistic: 'Sum' });
    this.topic = new sns.Topic(this, 'Alarms', { enforceSSL: true });
    if (options.alarmEmail !== undefined) this.topic.addSubscription(new EmailSubscription(options.alarmEmail));

    this.watchQueues();
    this.watchApi();
    this.watchDatabase();
    this.watchReadModel();
    if (projector !== undefined) this.watchFunction(projector);
    if (options.collector) this.watchPrograms();
    this.addDashboard();
  }

  private watchQueues(): void {
    const { queue, deadLetters } = this.stores.queues;
    this.alarm('DeadLetters', {
      metric: deadLetters.metricApproximateNumberOfMessagesVisible(LARGEST),
      above: 0,
      minutes: 1,
      meaning: `There are dead letters: ${RUNBOOK}#the-dead-letter-queue-fills`,
    });
    this.alarm('OldMessages', {
      metric: queue.metricApproximateAgeOfOldestMessage(LARGEST),
      above: 60,
      minutes: 3,
      meaning: `Events are not applied: ${RUNBOOK}#the-lag-grows`,
    });
  }

  private watchApi(): void {
    const { loadBalancer, targets } = this.services;
    this.alarm('NoHealthyApi', {
      metric: targets.metrics.healthyHostCount({ ...MINUTE, statistic: 'Minimum' }),
      below: 1,
      alsoWithoutValue: true,
      minutes: 2,
      meaning: `No api takes requests: ${RUNBOOK}#health`,
    });
    this.alarm('FailedOperations', {
      metric: this.failedOperations,
      above: 5,
      minutes: 3,
      meaning: `Operations fail: ${RUNBOOK}#operations-fail`,
    });
    this.alarm('LoadBalancerErrors', {
      metric: loadBalancer.metrics.httpCodeElb(elb.HttpCodeElb.ELB_5XX_COUNT, { ...MINUTE, statistic: 'Sum' }),
      above: 5,
      minutes: 3,
      meaning: `The load balancer gets no response from an api: ${RUNBOOK}#health`,
    });
    this.alarm('Errors', {
      metric: loadBalancer.metrics.httpCodeTarget(elb.HttpCodeTarget.TARGET_5XX_COUNT, { ...MINUTE, statistic: 'Sum' }),
      above: 5,
      minutes: 3,
      meaning: `The api responds with errors: ${RUNBOOK}#operations-fail`,
    });
    this.alarm('UnhealthyApis', {
      metric: targets.metrics.unhealthyHostCount(LARGEST),
      above: 0,
      minutes: 5,
      meaning: `An api reaches neither the database nor the read model: ${RUNBOOK}#health`,
    });
  }

  private watchDatabase(): void {
    const { cluster } = this.stores.database;
    this.alarm('DatabaseCapacity', {
      metric: cluster.metric('ACUUtilization', MINUTE),
      above: 90,
      minutes: 15,
      meaning: 'The database needs more than the option databaseCapacity allows: docs/scaling.md#what-to-watch',
    });
    this.alarm('DatabaseConnections', {
      metric: cluster.metricDatabaseConnections(LARGEST),
      above: 0.75 * largestConnections(this.options.databaseCapacity),
      minutes: 5,
      meaning: `The database has many connections: ${RUNBOOK}#connections-to-postgresql`,
    });
  }

  private watchReadModel(): void {
    this.alarm('ReadModelMemory', {
      metric: this.cache('DatabaseMemoryUsagePercentage', 'Maximum'),
      above: 75,
      minutes: 5,
      meaning: `Redis refuses writes when its memory is full; choose a larger cacheNode: ${RUNBOOK}#redis-refuses-writes`,
    });
    this.alarm('ReadModelCpu', {
      metric: this.cache('EngineCPUUtilization', 'Maximum'),
      above: 80,
      minutes: 15,
      meaning: 'Redis uses most of a processor; choose a larger cacheNode, or a cluster: docs/scaling.md#what-to-watch',
    });
    this.alarm('Evictions', {
      metric: this.cache('Evictions', 'Sum'),
      above: 0,
      minutes: 1,
      meaning: `Redis has evicted keys: ${RUNBOOK}#redis-lost-data`,
    });
  }

  /** It reports messages that it cannot apply as failed, which is no error: these become dead letters. */
  private watchFunction(projector: lambda.Function): void {
    this.alarm('FunctionErrors', {
      metric: projector.metricErrors({ ...MINUTE, statistic: 'Sum' }),
      above: 0,
      minutes: 3,
      meaning: `The function of the projector fails or does not start: ${RUNBOOK}#no-event-is-applied`,
    });
    this.alarm('FunctionThrottles', {
      metric: projector.metricThrottles({ ...MINUTE, statistic: 'Sum' }),
      above: 0,
      minutes: 3,
      meaning: `The account has too few concurrent invocations of Lambda for the projector: ${RUNBOOK}#the-lag-grows`,
    });
  }

  /**
   * What only the programs know. The metrics have a value per task, and an alarm looks at the largest. Those that always have a value
   * also notice that no collector works.
   */
  private watchPrograms(): void {
    this.alarm('Outbox', {
      metric: this.program('api', 'orders_outbox_oldest_age_seconds'),
      above: 60,
      alsoWithoutValue: true,
      minutes: 2,
      meaning: `Events wait in the outbox, or, without values, no collector of an api works: ${RUNBOOK}#events-wait-in-the-outbox`,
    });
    this.alarm('Differences', {
      metric: this.program('projector', 'orders_sweep_differences_total'),
      above: 0,
      minutes: 1,
      meaning: `The read model differs from the database: ${RUNBOOK}#totals-look-wrong`,
    });
    if (this.projector !== undefined) return; // a function has no such metrics
    this.alarm('Lag', {
      metric: this.program('projector', 'orders_projection_lag_seconds'),
      above: 10,
      minutes: 5,
      meaning: `Orders are visible late: ${RUNBOOK}#the-lag-grows`,
    });
    this.alarm('FrozenProjector', {
      metric: this.program('projector', 'orders_projector_state', { state: 'frozen' }),
      above: 0,
      alsoWithoutValue: true,
      minutes: 2,
      meaning: `A projector makes no progress (stop its task), or, without values, no collector of a projector works: ${RUNBOOK}#no-event-is-applied`,
    });
  }

  private alarm(id: string, { metric, above, below, alsoWithoutValue, minutes, meaning }: Condition): void {
    const alarm = new cloudwatch.Alarm(this, id, {
      metric,
      threshold: (above ?? below)!,
      evaluationPeriods: minutes,
      comparisonOperator: below === undefined ? ComparisonOperator.GREATER_THAN_THRESHOLD : ComparisonOperator.LESS_THAN_THRESHOLD,
      treatMissingData: alsoWithoutValue ? TreatMissingData.BREACHING : TreatMissingData.NOT_BREACHING,
      alarmDescription: meaning,
    });
    alarm.addAlarmAction(new SnsAction(this.topic));
    alarm.addOkAction(new SnsAction(this.topic));
    this.alarms.push(alarm);
  }

  private addDashboard(): void {
    const { queue, deadLetters } = this.stores.queues;
    const { cluster } = this.stores.database;
    const { api, projector, loadBalancer } = this.services;
    const graph = (title: string, left: cloudwatch.IMetric[], right: cloudwatch.IMetric[] = []) =>
      new cloudwatch.GraphWidget({ title, left, right, width: 8 });
    const times = ['p50', 'p99'].map((statistic) => loadBalancer.metrics.targetResponseTime({ ...MINUTE, statistic, label: statistic }));
    const rows: cloudwatch.IWidget[][] = [
      [new cloudwatch.AlarmStatusWidget({ title: 'Alarms', alarms: this.alarms, width: 24 })],
      [
        graph('Requests', [loadBalancer.metrics.requestCount(MINUTE)], [this.failedOperations, loadBalancer.metrics.httpCodeElb(elb.HttpCodeElb.ELB_5XX_COUNT, MINUTE)]),
        graph('Response time (s)', times),
        graph('Tasks', [api, projector].map((service) => this.services.runningTasks(service))),
      ],
      [
        graph('Queue', [queue.metricApproximateNumberOfMessagesVisible(LARGEST)], [queue.metricApproximateAgeOfOldestMessage(LARGEST)]),
        graph('Dead letters', [deadLetters.metricApproximateNumberOfMessagesVisible(LARGEST)]),
        graph('Processor (%)', [api.metricCpuUtilization(MINUTE), projector.metricCpuUtilization(MINUTE), this.cache('EngineCPUUtilization', 'Maximum')]),
      ],
      [
        graph('Database (ACU)', [cluster.metric('ServerlessDatabaseCapacity', MINUTE)], [cluster.metric('ACUUtilization', MINUTE)]),
        graph('Database connections', [cluster.metricDatabaseConnections(LARGEST)], [cluster.metric('CommitLatency', MINUTE)]),
        graph('Read model memory (%)', [this.cache('DatabaseMemoryUsagePercentage', 'Maximum')], [this.cache('ReplicationLag', 'Maximum')]),
      ],
    ];
    if (this.projector !== undefined) {
      rows.push([
        graph('Invocations of the projector', [this.projector.metricInvocations(MINUTE)], [this.projector.metricErrors(MINUTE), this.projector.metricThrottles(MINUTE)]),
        graph('Duration (ms)', ['p50', 'p99'].map((statistic) => this.projector!.metricDuration({ ...MINUTE, statistic, label: statistic }))),
        graph('Concurrent invocations', [this.projector.metric('ConcurrentExecutions', LARGEST)]),
      ]);
    }
    if (this.options.collector) {
      rows.push([
        graph('Outbox', [this.program('api', 'orders_outbox_pending_events')], [this.program('api', 'orders_outbox_oldest_age_seconds')]),
        graph('Operations', ['ok', 'refused', 'failed'].map((outcome) => this.program('api', 'orders_operations_total', { outcome }, 'Sum'))),
        graph('Lag of the read model (s)', [this.program('projector', 'orders_projection_lag_seconds', {}, 'Average')]),
      ]);
    }
    new cloudwatch.Dashboard(this, 'Dashboard', { widgets: rows });
  }

  /** The larger value of both nodes: either may be the primary. */
  private cache(metricName: string, statistic: string): cloudwatch.IMetric {
    const node = (number: number) =>
      new cloudwatch.Metric({
        namespace: 'AWS/ElastiCache',
        metricName,
        dimensionsMap: { CacheClusterId: `${this.stores.readModel.group.ref}-00${number}` },
        statistic,
        ...MINUTE,
      });
    // Names that are unique in a graph.
    const [first, second] = [1, 2].map((number) => `node${number}${metricName}`);
    return new cloudwatch.MathExpression({
      expression: `MAX([${first}, ${second}])`,
      usingMetrics: { [first]: node(1), [second]: node(2) },
      label: metricName,
      ...MINUTE,
    });
  }

  private program(program: string, metricName: string, labels: Record<string, string> = {}, statistic = 'Maximum'): cloudwatch.Metric {
    return new cloudwatch.Metric({ namespace: this.options.name, metricName, dimensionsMap: { program, ...labels }, statistic, ...MINUTE });
  }
}
