// The projector as a Lambda function.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FULL, FUNCTION, Synthesised, ingress, rights, temporary, text } from './synth.js';

const stack = new Synthesised(FUNCTION);
const { Properties: projector } = stack.one('AWS::Lambda::Function');
const { Properties: mapping } = stack.one('AWS::Lambda::EventSourceMapping');
const { Properties: queue } = stack.one('AWS::SQS::Queue', 'QueuesQueue');

test('the function runs what `make lambda` builds', () => {
  const { Architectures, Handler, MemorySize, Runtime } = projector;
  assert.deepEqual([Architectures, Handler, MemorySize, Runtime], [['x86_64'], 'bootstrap', 512, 'provided.al2023']);
  const arm = () => new Synthesised({ ...FUNCTION, architecture: 'arm64' });
  assert.throws(arm, /bootstrap is not built for arm64/);
  const missing = join(temporary(), 'missing');
  mkdirSync(missing);
  assert.throws(() => new Synthesised({ ...FUNCTION, projectorFunction: missing }), /build it with `make lambda`/);
  const [, directory] = /\$\{1:-(\S+)\}/.exec(text('scripts/build-lambda')) ?? [];
  assert(text('deploy/aws/src/projector-function.ts').includes(`'${directory}'`));
});

test('failed messages are reported one by one, and delivered again long after an invocation has ended', () => {
  assert.deepEqual(mapping.FunctionResponseTypes, ['ReportBatchItemFailures']);
  // https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
  assert(queue.VisibilityTimeout >= 6 * projector.Timeout);
  const seconds = (file: string, constant: string) =>
    Number(new RegExp(`const ${constant}: Duration = Duration::from_secs\\((\\d+)\\)`).exec(text(file))?.[1]);
  // The last attempt begins at the end of this time, and connects and calls Redis.
  assert(projector.Timeout > 2 * seconds('projector/lambda/src/function.rs', 'RETRY_FOR'));
  assert.equal(projector.Timeout, seconds('projector/lambda/tests/function/main.rs', 'TIME_LIMIT'));
});

test('the sweep and `verify` wait until a message was delivered again', () => {
  for (const container of [stack.container('projector'), stack.container('operator')]) {
    const inFlight = container.Environment?.find(({ Name }) => Name === 'IN_FLIGHT')?.Value;
    assert(60 * Number(/^(\d+)m$/.exec(String(inFlight))?.[1]) > queue.VisibilityTimeout);
  }
});

test('the document says how long an outage of Redis may take', () => {
  const minutes = ((queue.RedrivePolicy.maxReceiveCount - 1) * queue.VisibilityTimeout) / 60;
  assert(text('docs/deploy-aws.md').includes(`(${queue.RedrivePolicy.maxReceiveCount} − 1) × ${queue.VisibilityTimeout} s = ${minutes} minutes`));
});

test('projectorTasks limits the concurrent invocations, and 0-0 stops them', () => {
  const { BatchSize, Enabled, MaximumBatchingWindowInSeconds, ScalingConfig } = mapping;
  assert.deepEqual([BatchSize, Enabled, MaximumBatchingWindowInSeconds, ScalingConfig.MaximumConcurrency], [100, true, 1, 10]);
  const stopped = new Synthesised({ ...FUNCTION, projectorTasks: '0-0' });
  assert.equal(stopped.one('AWS::Lambda::EventSourceMapping').Properties.Enabled, false);
  assert.equal(stopped.one('AWS::ECS::Service', 'ProjectorService').Properties.DesiredCount, 0);
});

test('the function has only the rights that it and Lambda use', () => {
  const interfaces = ['AssignPrivateIpAddresses', 'CreateNetworkInterface', 'DeleteNetworkInterface', 'DescribeNetworkInterfaces', 'DescribeSubnets', 'UnassignPrivateIpAddresses'];
  const rightsOfFunction = [
    ...interfaces.flatMap((action) => [`ec2:${action} *`, `not ec2:${action} *`]),
    ...['logs:CreateLogStream', 'logs:PutLogEvents'].map((action) => `${action} TasksLog`),
    ...['DescribeSecret', 'GetSecretValue'].map((action) => `secretsmanager:${action} ReadModelPassword`),
    ...['DeleteMessage', 'GetQueueAttributes', 'ReceiveMessage'].map((action) => `sqs:${action} QueuesQueue`),
  ];
  assert.deepEqual(rights(stack, 'ProjectorRole'), rightsOfFunction.sort());
  assert.deepEqual(rights(stack, 'TasksProjectorTaskTaskRole'), [], 'the sweep does not use the queue');
});

test('the function reaches the read model, but not the database', () => {
  assert.deepEqual(ingress(stack, 'ReadModel'), ['ProjectorFunction', 'TasksApi', 'TasksOperator', 'TasksProjector'].map((from) => `${from} 6379`));
  assert.deepEqual(ingress(stack, 'DatabaseCluster'), ['TasksApi', 'TasksOperator', 'TasksProjector'].map((from) => `${from} of the store`));
  assert.deepEqual(ingress(stack, 'ProjectorFunction'), []);
});

test('apis start after the function', () => {
  const { DependsOn } = stack.one('AWS::ECS::Service', 'ApiService');
  const [[id]] = stack.all('AWS::Lambda::Function');
  assert(DependsOn?.includes(id));
});

test('there are alarms for what a function has, and none for what it has not', () => {
  const alarms = (of: Synthesised) => of.all('AWS::CloudWatch::Alarm').map(([id]) => /^Observability(\w+?)[0-9A-F]{8}$/.exec(id)?.[1]);
  for (const name of ['FunctionErrors', 'FunctionThrottles', 'OldMessages', 'DeadLetters']) assert(alarms(stack).includes(name), name);
  const full = alarms(new Synthesised({ ...FULL, ...FUNCTION, allowFrom: '0.0.0.0/0' }));
  assert(full.includes('Differences') && full.includes('Outbox'));
  assert(!full.includes('Lag') && !full.includes('FrozenProjector'));
});

test('settings of the projector are those of the function, but replace nothing that the stack sets', () => {
  const withSettings = (settings: object) => new Synthesised({ ...FUNCTION, projectorSettings: JSON.stringify(settings) });
  const { Variables } = withSettings({ PARTITIONS: '32' }).one('AWS::Lambda::Function').Properties.Environment;
  assert.equal(Variables.PARTITIONS, '32');
  assert.throws(() => withSettings({ LOG_FORMAT: 'text' }), /LOG_FORMAT of projector is set by the stack/);
});
