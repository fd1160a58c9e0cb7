// Deploys the template in an emulator. Then our programs run with the commands and variables of its task definitions.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Balancer } from './balancer.js';
import { Deployed, type Served } from './deployed.js';
import { output, stopAll, until } from './servers.js';

/** The longest time that anybody may wait during a rolling update. */
const LONGEST_WAIT_MS = 2000;

let deployed: Deployed;
let projector: Served;
let api: Served;
let token: string;
let passed = 0;

before(async () => {
  deployed = await Deployed.create(JSON.parse(readFileSync(process.env.TEMPLATE ?? '', 'utf8')));
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

  const { Token, FirstOrder, Url } = deployed.outputs;
  // The program of this machine instead of that in the image.
  const [, ...args] = /api (token) (--scope) '([^']+)'/.exec(Token) ?? [];
  token = deployed.command('api', ...args).trim();
  const command = FirstOrder.replace(Url, api.url);
  const placed = execFileSync('sh', ['-c', command], { env: { ...process.env, TOKEN: token }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  assert.equal(JSON.parse(placed).data.placeOrder.order.total.amount, '25.00', placed);

  await until('the order is visible', async () => (await client(api.url)).orderCount === 1);
  assert.deepEqual(await client(api.url), { name: 'Ada', orderCount: 1, total: { amount: '25.00' } });
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
  assert.equal((await client(next.api.url)).orderCount, 1 + placed);
  passed += 1;
});

async function graphql(url: string, query: string): Promise<any> {
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` };
  const response = await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query }) });
  const body = await response.text();
  assert(response.ok && !body.includes('"errors"'), body);
  return JSON.parse(body).data;
}

async function client(url: string) {
  return (await graphql(url, '{ client(id: "1") { name orderCount total { amount } } }')).client;
}

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
      const place = 'mutation { placeOrder(input: {clientId: "1", items: [{productId: "1", quantity: 1}]}) { clientVersion } }';
      const { placeOrder } = await this.timed(place);
      this.placed += 1;
      const { client } = await this.timed(`{ client(id: "1", minVersion: ${placeOrder.clientVersion}) { orderCount } }`);
      assert(client.orderCount > 0);
      await new Promise((passed) => setTimeout(passed, 20));
    }
  }

  private async timed(query: string): Promise<any> {
    const begin = performance.now();
    const data = await graphql(this.url, query);
    this.slowest = Math.max(this.slowest, performance.now() - begin);
    return data;
  }
}
