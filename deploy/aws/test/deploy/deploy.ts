// Deploys the template in an emulator. Then our programs run with the commands and variables of its task definitions, and the printed
// commands place an order. Instead of managed stores, which the emulator does not run, there are local ones.

import assert from 'node:assert/strict';
import { type ExecFileSyncOptionsWithStringEncoding, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { type Container } from '../synth.js';
import { Emulator, type Template, strip } from './emulator.js';
import { freePort, output, start, startPostgres, startRedis, stopAll, until } from './servers.js';

const { TEMPLATE = '', PROGRAMS = '' } = process.env;
const QUIET: ExecFileSyncOptionsWithStringEncoding = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] };
const CREDENTIALS = { AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: 'any' };

let passed = false;
after(async () => {
  await stopAll();
  if (!passed) console.error(output.join(''));
});

test('the template creates its resources, and its programs place an order', async () => {
  const template: Template = JSON.parse(readFileSync(TEMPLATE, 'utf8'));
  strip(template);
  const emulator = await Emulator.start();
  const outputs = await emulator.create('Orders', template);
  const stack = new Deployed(emulator, template);

  await checkQueues(emulator, outputs.Queue);

  const [api, projector] = [await stack.container('api'), await stack.container('projector')];
  const local = await localStores(stack, template, api);
  run(await stack.container('migration'), local);
  const health = await serve(projector, local);
  const url = await serve(api, local);
  for (const address of [url, health]) await until('it is ready', async () => (await fetch(`${address}/health/ready`)).ok);

  // The printed commands, with programs of this machine.
  const scope = /--scope '([^']+)'/.exec(outputs.Token)?.[1] ?? '';
  const token = execFileSync(`${PROGRAMS}/api`, ['token', '--scope', scope], { env: { JWT_SECRET: local.JWT_SECRET }, ...QUIET }).trim();
  const placed = execFileSync('sh', ['-c', outputs.FirstOrder.replace(outputs.Url, url)], { env: { ...process.env, TOKEN: token }, ...QUIET });
  assert.equal(JSON.parse(placed).data.placeOrder.order.total.amount, '25.00', placed);

  const visible = { query: '{ client(id: "1") { name orderCount total { amount } } }' };
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` };
  let client: unknown;
  await until('the order is visible', async () => {
    const response = await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify(visible) });
    ({ client } = (await response.json() as any).data);
    return (client as any)?.orderCount === 1;
  });
  assert.deepEqual(client, { name: 'Ada', orderCount: 1, total: { amount: '25.00' } });
  // The rights of the user of Redis suffice.
  assert.deepEqual(output.filter((line) => /NOPERM|"level":"(WARN|ERROR)"/.test(line)), []);
  passed = true;
});

/** The queues of the template are those of `projector queues create`. */
async function checkQueues(emulator: Emulator, url: string): Promise<void> {
  const attributes = async (url: string) => {
    const { Attributes } = await emulator.json('sqs', 'AmazonSQS.GetQueueAttributes', { QueueUrl: url, AttributeNames: ['All'] });
    const redrive = JSON.parse(Attributes.RedrivePolicy ?? '{}');
    const deadLetters: string = redrive.deadLetterTargetArn?.split(':').at(-1);
    // Only the template refuses calls without TLS. The names and the times differ.
    for (const name of ['Policy', 'QueueArn', 'CreatedTimestamp', 'LastModifiedTimestamp', 'RedrivePolicy']) delete Attributes[name];
    return { attributes: { ...Attributes, maxReceiveCount: Number(redrive.maxReceiveCount) }, deadLetters };
  };
  const named = async (name: string): Promise<string> => (await emulator.json('sqs', 'AmazonSQS.GetQueueUrl', { QueueName: name })).QueueUrl;

  const variables = { ...CREDENTIALS, AWS_REGION: 'us-east-1', AWS_ENDPOINT_URL: emulator.url };
  execFileSync(`${PROGRAMS}/projector`, ['queues', 'create', 'expected'], { env: variables, stdio: 'ignore' });
  const [actual, expected] = [await attributes(url), await attributes(await named('expected'))];
  assert.deepEqual(actual.attributes, expected.attributes);
  const deadLetters = [await attributes(await named(actual.deadLetters)), await attributes(await named(expected.deadLetters))];
  assert.deepEqual(deadLetters[0], deadLetters[1]);
}

/** What the emulator has created of a template. */
class Deployed {
  constructor(readonly emulator: Emulator, private readonly template: Template) {}

  /** A container with its variables, as the emulator has resolved them. The emulator loses secrets: these are as in the template. */
  async container(name: string): Promise<Container> {
    for (const { Type, Properties } of Object.values(this.template.Resources)) {
      const planned: Container | undefined = Type === 'AWS::ECS::TaskDefinition' && Properties.ContainerDefinitions.find((container: Container) => container.Name === name);
      if (!planned) continue;
      const target = 'AmazonEC2ContainerServiceV20141113.DescribeTaskDefinition';
      const { taskDefinition } = await this.emulator.json('ecs', target, { taskDefinition: Properties.Family });
      const created = taskDefinition.containerDefinitions.find((container: any) => container.name === name);
      return { ...planned, Command: created.command, Environment: created.environment.map(({ name, value }: any) => ({ Name: name, Value: value })) };
    }
    throw new Error(`there is no container ${name}`);
  }

  /** The text of the secret with this description. */
  async secret(description: RegExp): Promise<string> {
    const { SecretList } = await this.emulator.json('secretsmanager', 'secretsmanager.ListSecrets', { MaxResults: 100 });
    const { ARN } = SecretList.find((secret: any) => description.test(secret.Description ?? ''));
    return (await this.emulator.json('secretsmanager', 'secretsmanager.GetSecretValue', { SecretId: ARN })).SecretString;
  }
}

/** Starts the stores and returns the variables that replace those of managed ones. */
async function localStores(stack: Deployed, template: Template, api: Container): Promise<Record<string, string>> {
  const { username, password } = JSON.parse(await stack.secret(/^Generated by the CDK for stack/));
  // The emulator may put punctuation into it, and Redis reads its configuration as text.
  const redisPassword = (await stack.secret(/user orders/)).replace(/\W/g, '');
  const user = Object.values(template.Resources).find(({ Type }) => Type === 'AWS::ElastiCache::User')!.Properties;
  const [postgres, redis] = [await startPostgres(username, password), await startRedis(user.UserName, user.AccessString, redisPassword)];
  const url = String(api.Environment?.find(({ Name }) => Name === 'DATABASE_URL')?.Value);
  return {
    DATABASE_URL: url.replace(/sslmode=.*/, 'sslmode=disable'),
    PGHOST: '127.0.0.1',
    PGPORT: String(postgres),
    PGUSER: username,
    PGPASSWORD: password,
    PGDATABASE: 'orders',
    REDIS_URL: `redis://127.0.0.1:${redis}`,
    REDIS_PASSWORD: redisPassword,
    JWT_SECRET: await stack.secret(/Signs the tokens/),
    AWS_ENDPOINT_URL: stack.emulator.url,
    ...CREDENTIALS,
  };
}

/** The variables of a container. Of the local ones it gets those that it has in the template, and those of the AWS SDK. */
function variables(container: Container, local: Record<string, string>): Record<string, string> {
  const own = Object.fromEntries((container.Environment ?? []).map(({ Name, Value }) => [Name, String(Value)]));
  const secrets = (container.Secrets ?? []).map(({ Name }) => Name);
  const replaced = Object.entries(local).filter(([name]) => name in own || secrets.includes(name) || name.startsWith('AWS_'));
  return { ...own, ...Object.fromEntries(replaced) };
}

function run(container: Container, local: Record<string, string>): void {
  const [program, ...args] = container.Command;
  execFileSync(`${PROGRAMS}/${program}`, args, { env: variables(container, local), stdio: 'pipe' });
}

/** Starts a program and returns its address: another port than in the template. */
async function serve(container: Container, local: Record<string, string>): Promise<string> {
  const [program, ...args] = container.Command;
  const address = `127.0.0.1:${await freePort()}`;
  const all = variables(container, local);
  assert.match(all.LISTEN_ADDR, /^0\.0\.0\.0:\d+$/);
  start(`${PROGRAMS}/${program}`, args, { ...all, LISTEN_ADDR: address });
  return `http://${address}`;
}
