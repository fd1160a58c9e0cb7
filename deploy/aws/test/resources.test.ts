// Rights, network, queues, and what remains when the stack is deleted.

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { App } from 'aws-cdk-lib';
import { Match } from 'aws-cdk-lib/assertions';
import { readOptions } from '../src/options.js';
import { OrderService } from '../src/stack.js';
import { CALLER, FULL, FUNCTION, Synthesised, ingress, rights, text } from './synth.js';

const stack = new Synthesised(CALLER);
const full = new Synthesised(FULL);
const withFunction = new Synthesised(FUNCTION);

test('the queues have the attributes that `projector queues create` gives', () => {
  const source = text('projector/src/queues/create.rs');
  const constant = (name: string) => {
    const product = new RegExp(`const ${name}: u32 = ([0-9* ]+);`).exec(source)?.[1] ?? '';
    return product.split('*').reduce((result, factor) => result * Number(factor), 1);
  };
  const named = /use aws_sdk_sqs::types::QueueAttributeName::\{([^}]+)\}/.exec(source)?.[1].match(/\w+/g);
  assert.deepEqual(named, ['self', 'MessageRetentionPeriod', 'QueueArn', 'RedrivePolicy', 'SqsManagedSseEnabled', 'VisibilityTimeout']);

  const [deadLetters] = stack.all('AWS::SQS::Queue').find(([id]) => id.includes('DeadLetters'))!;
  const redrive = { deadLetterTargetArn: { 'Fn::GetAtt': [deadLetters, 'Arn'] }, maxReceiveCount: constant('MAX_RECEIVES') };
  // A test of the function compares its visibility timeout with its time limit.
  for (const [synthesised, VisibilityTimeout] of [[stack, constant('VISIBILITY_TIMEOUT')], [withFunction, 90]] as const) {
    const common = { VisibilityTimeout, MessageRetentionPeriod: constant('RETENTION'), SqsManagedSseEnabled: true };
    assert(common.VisibilityTimeout > 0 && common.MessageRetentionPeriod > 0);
    assert.deepEqual(synthesised.one('AWS::SQS::Queue', 'QueuesDeadLetters').Properties, common);
    assert.deepEqual(synthesised.one('AWS::SQS::Queue', 'QueuesQueue').Properties, { ...common, RedrivePolicy: redrive });
  }
});

const publish = ['sqs:GetQueueAttributes QueuesQueue', 'sqs:SendMessage QueuesQueue'];
const consume = ['ChangeMessageVisibility', 'DeleteMessage', 'GetQueueAttributes', 'ReceiveMessage'].map((action) => `sqs:${action} QueuesQueue`);

test('each role has only the rights that its program uses', () => {
  assert.deepEqual(rights(stack, 'TasksApiTaskTaskRole'), publish);
  assert.deepEqual(rights(stack, 'TasksProjectorTaskTaskRole'), consume);
  const deadLetters = ['ChangeMessageVisibility', 'DeleteMessage', 'GetQueueAttributes', 'GetQueueUrl', 'ReceiveMessage'];
  assert.deepEqual(rights(stack, 'TasksOperatorTaskTaskRole'), [...publish, ...deadLetters.map((action) => `sqs:${action} DeadLetters`)].sort());
});

test('the api may use dead letters only if an option says so', () => {
  const withLetters = new Synthesised({ ...CALLER, apiDeadLetters: 'true' });
  const deadLetters = ['ChangeMessageVisibility', 'DeleteMessage', 'GetQueueAttributes', 'GetQueueUrl', 'ReceiveMessage'];
  assert.deepEqual(rights(withLetters, 'TasksApiTaskTaskRole'), [...publish, ...deadLetters.map((action) => `sqs:${action} DeadLetters`)].sort());
});

test('a collector and a login by IAM need few more rights', () => {
  const collect = ['logs:CreateLogStream', 'logs:DescribeLogStreams', 'logs:PutLogEvents'].map((action) => `${action} TasksMetrics`);
  const more = [...collect, 'rds-db:connect rds-db', 'xray:PutTraceSegments *'];
  const count = ['sqs:GetQueueAttributes DeadLetters', 'sqs:GetQueueUrl DeadLetters'];
  assert.deepEqual(rights(full, 'TasksApiTaskTaskRole'), [...publish, ...more].sort());
  assert.deepEqual(rights(full, 'TasksProjectorTaskTaskRole'), [...consume, ...more, ...count].sort());
});

test('a login by IAM is for one user of this cluster', () => {
  const statements = full.all('AWS::IAM::Policy').flatMap(([, policy]) => policy.Properties.PolicyDocument.Statement);
  const connect = statements.filter(({ Action }) => Action === 'rds-db:connect');
  const [[cluster]] = full.all('AWS::RDS::DBCluster');
  const resource = { 'Fn::GetAtt': [cluster, 'DBClusterResourceId'] };
  const [partition, region, account] = ['Partition', 'Region', 'AccountId'].map((name) => ({ Ref: `AWS::${name}` }));
  assert.equal(connect.length, 3);
  for (const { Resource } of connect) {
    // https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.IAMDBAuth.IAMPolicy.html
    assert.deepEqual(Resource, { 'Fn::Join': ['', ['arn:', partition, ':rds-db:', region, ':', account, ':dbuser:', resource, '/orders_iam']] });
  }
});

test('only the load balancer reaches the api, and nothing the projector or the metrics', () => {
  assert.deepEqual(ingress(stack, 'ServicesLoadBalancer'), ['192.0.2.1/32 80']);
  assert.deepEqual(ingress(full, 'ServicesLoadBalancer'), ['0.0.0.0/0 443']);
  for (const synthesised of [stack, full]) {
    assert.deepEqual(ingress(synthesised, 'TasksApi'), ['ServicesLoadBalancer 8080']);
    assert.deepEqual(ingress(synthesised, 'TasksProjector'), []);
    assert.deepEqual(ingress(synthesised, 'TasksOperator'), []);
    const programs = ['TasksApi', 'TasksOperator', 'TasksProjector'];
    assert.deepEqual(ingress(synthesised, 'ReadModel'), programs.map((program) => `${program} 6379`));
    assert.deepEqual(ingress(synthesised, 'DatabaseCluster'), programs.map((program) => `${program} of the store`));
  }
  const ports = full.all('AWS::ECS::TaskDefinition').flatMap(([, task]) => task.Properties.ContainerDefinitions)
    .flatMap((container) => container.PortMappings ?? []).map((mapping) => mapping.ContainerPort);
  assert.deepEqual(ports, [8080]);
});

test('with a certificate there is HTTPS only', () => {
  full.template.resourceCountIs('AWS::ElasticLoadBalancingV2::Listener', 1);
  full.template.hasResourceProperties('AWS::ElasticLoadBalancingV2::Listener', { Port: 443, Protocol: 'HTTPS', SslPolicy: Match.stringLikeRegexp('TLS13') });
});

test('a failed deployment is rolled back, and a deployment stops no task too early', () => {
  const services = stack.all('AWS::ECS::Service');
  assert.equal(services.length, 2);
  for (const [, { Properties }] of services) {
    const { DeploymentCircuitBreaker, MinimumHealthyPercent } = Properties.DeploymentConfiguration;
    assert.deepEqual(DeploymentCircuitBreaker, { Enable: true, Rollback: true });
    assert.equal(MinimumHealthyPercent, 100);
    assert.equal(Properties.DesiredCount, undefined);
  }
  // The order of a release: projectors, then apis.
  const [, api] = services.find(([id]) => id.includes('ApiService'))! as [string, any];
  assert(api.DependsOn.some((id: string) => id.includes('ProjectorService')));
});

test('stores fail over, and Redis evicts nothing', () => {
  assert.equal(stack.all('AWS::RDS::DBInstance').length, 2);
  stack.template.hasResourceProperties('AWS::ElastiCache::ReplicationGroup', { AutomaticFailoverEnabled: true, MultiAZEnabled: true, ReplicasPerNodeGroup: 1 });
  stack.template.hasResourceProperties('AWS::ElastiCache::ParameterGroup', { Properties: { 'maxmemory-policy': 'noeviction' } });
});

test('a deleted stack leaves a snapshot of the database', () => {
  assert.equal(stack.one('AWS::RDS::DBCluster').DeletionPolicy, 'Snapshot');
});

test('deletionProtection protects the stack, and what it would lose', () => {
  assert.equal(full.stack.terminationProtection, false);
  const kept = new Synthesised({ ...FULL, deletionProtection: 'true' });
  assert.equal(kept.stack.terminationProtection, true);
  assert.equal(kept.one('AWS::RDS::DBCluster').Properties.DeletionProtection, true);
  assert.equal(kept.one('AWS::Cognito::UserPool').Properties.DeletionProtection, 'ACTIVE');
});

test('Fargate has tasks of this size', () => {
  const memory: Record<string, number[]> = { 256: [512, 1024, 2048], 512: [1024, 2048, 3072, 4096], 1024: [2048, 3072, 4096, 5120, 6144, 7168, 8192] };
  for (const [id, { Properties }] of [stack, withFunction].flatMap((synthesised) => synthesised.all('AWS::ECS::TaskDefinition'))) {
    assert(memory[Properties.Cpu].includes(Number(Properties.Memory)), id);
  }
});

test('services start after their stores and the way to their image', () => {
  for (const synthesised of [stack, full]) {
    const routes = synthesised.all('AWS::EC2::Route').filter(([, route]) => route.Properties.NatGatewayId).map(([id]) => id);
    const stores = ['AWS::RDS::DBInstance', 'AWS::ElastiCache::ReplicationGroup'].flatMap((type) => synthesised.all(type).map(([id]) => id));
    assert.deepEqual([routes.length, stores.length], [2, 3]);
    for (const [id, { DependsOn }] of synthesised.all('AWS::ECS::Service')) {
      for (const needed of [...routes, ...stores]) assert(DependsOn?.includes(needed), `${id}: ${needed}`);
    }
  }
});

test('the alarm of failed operations counts lines of the log of the api', () => {
  const { FilterPattern, LogGroupName, MetricTransformations } = stack.one('AWS::Logs::MetricFilter').Properties;
  const field = /\$\.(\w+) = "failed"/.exec(FilterPattern)?.[1];
  assert.match(text('docs/operations.md'), new RegExp(`^\\| \`${field}\`.*\`failed\``, 'm'));
  const { LogConfiguration } = stack.container('api') as any;
  assert.deepEqual(LogGroupName, LogConfiguration.Options['awslogs-group']);
  const [{ MetricName, MetricNamespace }] = MetricTransformations;
  const alarm = stack.one('AWS::CloudWatch::Alarm', 'FailedOperations').Properties;
  assert.deepEqual([alarm.MetricName, alarm.Namespace], [MetricName, MetricNamespace]);
});

test('it is an alarm if no api is healthy, also if none exists', () => {
  const { ComparisonOperator, Threshold, Statistic, TreatMissingData } = stack.one('AWS::CloudWatch::Alarm', 'NoHealthyApi').Properties;
  assert.deepEqual([Statistic, ComparisonOperator, Threshold, TreatMissingData], ['Minimum', 'LessThanThreshold', 1, 'breaching']);
});

test('the alarm of database connections is below their limit', () => {
  const threshold = (databaseCapacity: string) =>
    new Synthesised({ ...CALLER, databaseCapacity }).one('AWS::CloudWatch::Alarm', 'DatabaseConnections').Properties.Threshold;
  // https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-serverless-v2.setting-capacity.html
  for (const [capacity, limit] of [['0.5-1', 189], ['1-4', 823], ['0.5-16', 2000], ['1-16', 3360], ['2-64', 5000]] as const) {
    assert(threshold(capacity) < 0.8 * limit && threshold(capacity) > 0.6 * limit, capacity);
  }
});

test('a budget sends e-mails before the costs of the account exceed the plan', () => {
  assert.equal(full.all('AWS::Budgets::Budget').length, 0);
  const { Budget, NotificationsWithSubscribers } = new Synthesised({ ...FULL, monthlyBudget: '500' }).one('AWS::Budgets::Budget').Properties;
  assert.deepEqual(Budget, { BudgetType: 'COST', TimeUnit: 'MONTHLY', BudgetLimit: { Amount: 500, Unit: 'USD' } });
  const notifications = NotificationsWithSubscribers.map(({ Notification, Subscribers: [{ Address }] }: any) => [Notification.NotificationType, Notification.Threshold, Address]);
  assert.deepEqual(notifications, [['ACTUAL', 80, FULL.alarmEmail], ['FORECASTED', 100, FULL.alarmEmail]]);
});

test('each alarm leads to a section that exists', () => {
  const anchors = new Set(['docs/operations.md', 'docs/scaling.md'].flatMap((document) =>
    [...text(document).matchAll(/^#+ (.+)$/gm)].map(([, heading]) => `${document}#${heading.toLowerCase().replace(/ /g, '-').replace(/[^a-z0-9_-]/g, '')}`)));
  const alarms = full.all('AWS::CloudWatch::Alarm');
  assert(alarms.length >= 16);
  for (const [id, { Properties }] of [...alarms, ...withFunction.all('AWS::CloudWatch::Alarm')]) {
    const [anchor] = /docs\/\S+$/.exec(Properties.AlarmDescription) ?? [];
    assert(anchors.has(anchor!), `${id}: ${anchor}`);
    assert.equal(Properties.AlarmActions.length, 1);
  }
});

test('the build of the image has the files that the Dockerfile copies, and no others of this folder', () => {
  const outdir = mkdtempSync(join(tmpdir(), 'cdk-'));
  try {
    const { context } = JSON.parse(text('deploy/aws/cdk.json'));
    const app = new App({ outdir, context: { ...context, allowFrom: CALLER.allowFrom } });
    const options = readOptions(app.node);
    new OrderService(app, options.name, options);
    app.synth();
    const asset = join(outdir, readdirSync(outdir).find((name) => name.startsWith('asset.'))!);
    const copied = [...text('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, sources]) => sources.split(' '));
    for (const source of copied) assert(existsSync(join(asset, source)), source);
    for (const file of ['Dockerfile', 'Cargo.lock']) assert(existsSync(join(asset, file)), file);
    assert(!existsSync(join(asset, 'deploy/aws')) && !existsSync(join(asset, 'target')));
  } finally {
    rmSync(outdir, { recursive: true });
  }
});
