// Deploys the template in an emulator. Then our programs run with the commands and variables of its task definitions.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Balancer } from './balancer.js';
import { Deployed, type Served } from './deployed.js';
import { output, stopAll, until } from './servers.js';
import { Shop } from './shop.js';

/** The longest time that anybody may wait during a rolling update. */
const LONGEST_WAIT_MS = 2000;

let deployed: Deployed;
let projector: Served;
let api: Served;
let shop: Shop;
let passed = 0;

before(async () => {
  deployed = await Deployed.create(process.env.TEMPLATE ?? '');
});
after(async () => {
  await stopAll();
  if (passed < 3) console.error(output.join(''));
});

test('the queues are those of `projector queues create`', async () => {
  const { emulator, outputs } = deployed;
  const attributes = async (url: string) => {
    const { Attributes } = await emulator.json('sqs', 'AmazonSQS.GetQueueAttributes', { QueueUrl: url, AttributeNames: ['All'] });
    const redrive = JSON.parse(Attributes.RedrivePolicy ?? '{}');
    const deadLetters: string = redrive.deadLetterTargetArn?.split(':').at(-1);
    // Only the template refuses calls without TLS. The names and the times differ.
    for (const name of ['Policy', 'QueueArn', 'CreatedTimestamp', 'LastModifiedTimestamp', 'RedrivePolicy']) delete Attributes[name];
    return { attributes: { ...Attributes, maxReceiveCount: Number(redrive.maxReceiveCount) }, deadLetters };
  };
  const named = async (name: string): Promise<string> => (await emulator.json('sqs', 'AmazonSQS.GetQueueUrl', { QueueName: name })).QueueUrl;

  deployed.command('projector', 'queues', 'create', 'expected');
  const [actual, expected] = [await attributes(outputs.Queue), await attributes(await named('expected'))];
  assert.deepEqual(actual.attributes, expected.attributes);
  const deadLetters = [await attributes(await named(actual.deadLetters)), await attributes(await named(expected.deadLetters))];
  assert.deepEqual(deadLetters[0], deadLetters[1]);
  passed += 1;
});

test('the printed commands place an order, which becomes visible', async () => {
  await deployed.run('migration');
  [projector, api] = [await deployed.serve('projector'), await deployed.serve('api')];
  shop = Shop.open(deployed, api);
  await until('the order is visible', async () => (await shop.client(api.url)).orderCount === 1);
  assert.deepEqual(await shop.client(api.url), { name: 'Ada', orderCount: 1, total: { amount: '25.00' } });
  // The rights of the user of Redis suffice.
  assert.deepEqual(output.filter((line) => /NOPERM|"level":"(WARN|ERROR)"/.test(line)), []);
  passed += 1;
});

test('during a rolling update no request fails, and nobody waits long', async (context) => {
  const balancer = await Balancer.start(deployed.resource('AWS::ElasticLoadBalancingV2::TargetGroup') as any);
  context.after(() => balancer.stop());
  balancer.add(api.url);
  await until('the first api is healthy', async () => balancer.isHealthy(api.url));
  const load = new Load(balancer.url);

  const next = { projector: await deployed.serve('projector'), api: await deployed.serve('api') };
  assert.equal(await end(projector), 0);
  balancer.add(next.api.url);
  await until('the next api is healthy', async () => balancer.isHealthy(next.api.url));
  // ECS first takes a task out of the load balancer. Here it finds out itself, as when a machine is taken out of service.
  assert.equal(await end(api), 0);

  const { placed, slowest } = await load.stop();
  assert(placed > 0);
  assert(slowest < LONGEST_WAIT_MS, `a request took ${slowest} ms`);
  assert.equal((await shop.client(next.api.url)).orderCount, 1 + placed);
  passed += 1;
});

/** Ends a program as ECS does, and returns its exit status. */
async function end({ process: ended }: Served): Promise<number | null> {
  const status = new Promise<number | null>((exit) => ended.once('exit', exit));
  ended.kill('SIGTERM');
  return await status;
}

/** Two callers that place orders and read them, one after the other. */
class Load {
  private stopped = false;
  private placed = 0;
  private slowest = 0;
  private failure: unknown;
  private readonly callers: Promise<void>[];

  constructor(private readonly url: string) {
    const stop = (error: unknown) => {
      this.failure ??= error;
      this.stopped = true;
    };
    this.callers = [this.call().catch(stop), this.call().catch(stop)];
  }

  async stop() {
    this.stopped = true;
    await Promise.all(this.callers);
    if (this.failure !== undefined) throw this.failure;
    return { placed: this.placed, slowest: Math.round(this.slowest) };
  }

  private async call(): Promise<void> {
    while (!this.stopped) {
      const version = await this.timed(shop.place(this.url));
      this.placed += 1;
      const { client } = await this.timed(shop.graphql(this.url, `{ client(id: "1", minVersion: ${version}) { orderCount } }`));
      assert(client.orderCount > 0);
      await new Promise((passed) => setTimeout(passed, 20));
    }
  }

  private async timed<T>(request: Promise<T>): Promise<T> {
    const begin = performance.now();
    const response = await request;
    this.slowest = Math.max(this.slowest, performance.now() - begin);
    return response;
  }
}
