// Deploys the template with the projector as a Lambda function in an emulator, which runs the real function on this machine through its
// event source mapping.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Deployed, type Served } from './deployed.js';
import { output, stopAll, until } from './servers.js';
import { Shop } from './shop.js';

/** Otherwise five deliveries would take minutes. */
const VISIBILITY_TIMEOUT = { ofBadMessage: '1', duringOutage: '10' };

let deployed: Deployed;
let api: Served;
let shop: Shop;
let passed = 0;

before(async () => {
  deployed = await Deployed.create(process.env.FUNCTION_TEMPLATE ?? '');
});
after(async () => {
  await stopAll();
  if (passed < 3) console.error(output.join(''));
});

test('the function makes an order visible', async () => {
  await deployed.run('migration');
  api = await deployed.serve('api');
  shop = Shop.open(deployed, api);
  await until('the order is visible', async () => (await shop.client(api.url))?.orderCount === 1);
  assert.deepEqual(await shop.client(api.url), { name: 'Ada', orderCount: 1, total: { amount: '25.00' } });
  passed += 1;
});

test('a bad message becomes a dead letter after five deliveries, and delays no other', async () => {
  await setVisibilityTimeout(VISIBILITY_TIMEOUT.ofBadMessage);
  const { emulator, outputs } = deployed;
  await emulator.json('sqs', 'AmazonSQS.SendMessage', { QueueUrl: outputs.Queue, MessageBody: 'hello' });
  await shop.place(api.url);
  await until('the order is visible', async () => (await shop.client(api.url)).orderCount === 2);
  await until('it is a dead letter', async () => (await count(await deadLetters())).visible === 1);
  const { Messages } = await emulator.json('sqs', 'AmazonSQS.ReceiveMessage', { QueueUrl: await deadLetters(), VisibilityTimeout: 0 });
  assert.equal(Messages[0].Body, 'hello');
  await until('nothing else waits', async () => (await waiting()) === 0);
  assert.equal((await shop.client(api.url)).orderCount, 2);
  passed += 1;
});

test('an outage of Redis of some seconds loses nothing and counts nothing twice', async () => {
  await setVisibilityTimeout(VISIBILITY_TIMEOUT.duringOutage);
  deployed.redis.kill('SIGSTOP');
  for (let orders = 0; orders < 5; orders += 1) await shop.place(api.url);
  // One that starts during the outage ends at once.
  const reason = /so that messages are delivered again later|cannot reach the Redis/;
  await until('an invocation has failed', async () => output.some((line) => reason.test(line)));
  assert((await waiting()) > 0);
  deployed.redis.kill('SIGCONT');

  await until('nothing waits', async () => (await waiting()) === 0);
  await until('the orders are visible', async () => (await shop.client(api.url)).orderCount === 7);
  assert.deepEqual(await count(await deadLetters()), { visible: 1, held: 0 });
  passed += 1;
});

async function setVisibilityTimeout(seconds: string): Promise<void> {
  const attributes = { QueueUrl: deployed.outputs.Queue, Attributes: { VisibilityTimeout: seconds } };
  await deployed.emulator.json('sqs', 'AmazonSQS.SetQueueAttributes', attributes);
}

async function deadLetters(): Promise<string> {
  const { RedrivePolicy } = await attributes(deployed.outputs.Queue);
  const name = JSON.parse(RedrivePolicy).deadLetterTargetArn.split(':').at(-1);
  return (await deployed.emulator.json('sqs', 'AmazonSQS.GetQueueUrl', { QueueName: name })).QueueUrl;
}

async function attributes(url: string): Promise<Record<string, string>> {
  return (await deployed.emulator.json('sqs', 'AmazonSQS.GetQueueAttributes', { QueueUrl: url, AttributeNames: ['All'] })).Attributes;
}

/** The messages of a queue that may be received, and those that were received and are not deleted. */
async function count(url: string): Promise<{ visible: number; held: number }> {
  const { ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible } = await attributes(url);
  return { visible: Number(ApproximateNumberOfMessages), held: Number(ApproximateNumberOfMessagesNotVisible) };
}

async function waiting(): Promise<number> {
  const { visible, held } = await count(deployed.outputs.Queue);
  return visible + held;
}
