// examples/confirmation_mails.ts: two processes with one queue, one database and an SMTP server that keeps the mails.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { chown, readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import { CreateQueueCommand, GetQueueAttributesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import pg from 'pg';
import { transformWithOxc } from 'vite';
import { program, temporaryDirectory, test, web } from './support.js';

const processes = [];
after(() => processes.forEach((process) => process.kill('SIGKILL')));
const start = (command, args, options) => processes[processes.push(spawn(command, args, options)) - 1];
const example = async (type) => JSON.parse(await readFile(path.join(web, `../events/${type}.schema.json`), 'utf8')).examples[0];

async function until(condition) {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

async function startPostgres() {
  const bin = `/usr/lib/postgresql/${readdirSync('/usr/lib/postgresql').sort((a, b) => b - a)[0]}/bin`;
  const directory = await temporaryDirectory();
  // It refuses to run as root.
  const asUser = process.getuid() === 0 ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups'] : ['env'];
  if (process.getuid() === 0) await chown(directory, ...['-u', '-g'].map((id) => Number(execFileSync('id', [id, 'postgres']))));
  const run = (name, ...args) => [asUser[0], [...asUser.slice(1), `${bin}/${name}`, '-D', `${directory}/data`, ...args], { cwd: directory, stdio: 'ignore' }];
  execFileSync(...run('initdb', '-U', 'test', '--auth', 'trust', '--no-sync'));
  const port = await freePort();
  start(...run('postgres', '-p', String(port), '-h', '127.0.0.1', '-c', `unix_socket_directories=${directory}`, '-c', 'fsync=off'));
  const url = `postgres://test@127.0.0.1:${port}/postgres`;
  await until(async () => {
    const client = new pg.Client(url);
    const works = await client.connect().then(() => true, () => false);
    await client.end().catch(() => {});
    return works;
  });
  return url;
}

async function startQueue() {
  const standalone = start(program('standalone'), ['queue'], { env: { QUEUE_LISTEN_ADDR: '127.0.0.1:0' }, stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: standalone.stdout })) {
    const endpoint = line.match(/AWS_ENDPOINT_URL=(\S+)/)?.[1];
    if (endpoint) return endpoint;
  }
  throw new Error('the queue ended before it was ready');
}

/** An SMTP server that refuses the first mail. */
async function startSmtp(mails) {
  let refusals = 1;
  const server = createServer((socket) => {
    let mail;
    socket.write('220 sink\r\n');
    socket.on('error', () => {});
    createInterface({ input: socket }).on('line', (line) => {
      if (mail === undefined) {
        if (line === 'DATA') mail = [];
        socket.write(line === 'DATA' ? '354 go on\r\n' : '250 ok\r\n');
      } else if (line === '.') {
        const accepts = refusals-- <= 0;
        if (accepts) mails.push(mail.join('\n'));
        mail = undefined;
        socket.write(accepts ? '250 ok\r\n' : '451 not now\r\n');
      } else {
        mail.push(line);
      }
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  after(() => server.close());
  return `smtp://127.0.0.1:${server.address().port}`;
}

test('the example in TypeScript confirms each order once, however often its event arrives', async () => {
  const mails = [];
  const [database, endpoint, smtp] = await Promise.all([startPostgres(), startQueue(), startSmtp(mails)]);
  const sqs = new SQSClient({ endpoint, region: 'us-east-1', credentials: { accessKeyId: 'any', secretAccessKey: 'any' } });
  const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: 'mails', Attributes: { VisibilityTimeout: '1' } }));

  const order = await example('orders.OrderPlaced.v1');
  const second = { ...order, sequence: '0000000008', data: { ...order.data, clientEmail: 'new@example.com' } };
  const others = [await example('orders.OrderCancelled.v1'), await example('products.ProductCreated.v1'), { ...order, type: 'orders.OrderPlaced.v2', data: null }];
  for (const event of [...others, second, ...Array(10).fill(order)]) {
    await sqs.send(new SendMessageCommand({ QueueUrl, MessageBody: JSON.stringify(event) }));
  }

  const directory = await temporaryDirectory();
  await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
  const file = path.join(directory, 'example.mjs');
  const source = await readFile(path.join(web, '../examples/confirmation_mails.ts'), 'utf8');
  await writeFile(file, (await transformWithOxc(source, 'confirmation_mails.ts')).code);
  const env = {
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'any',
    AWS_SECRET_ACCESS_KEY: 'any',
    DATABASE_URL: database,
    FROM: 'Shop <shop@example.com>',
    QUEUE_URL: QueueUrl,
    SMTP_URL: smtp,
  };
  for (let i = 0; i < 2; i++) start(process.execPath, [file], { env, stdio: ['ignore', 'ignore', 'ignore'] });

  const names = ['ApproximateNumberOfMessages', 'ApproximateNumberOfMessagesNotVisible'];
  await until(async () => {
    const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl, AttributeNames: names }));
    return names.every((name) => Attributes[name] === '0');
  });
  assert.equal(mails.length, 2, mails.join('\n\n'));
  const [mail] = mails.filter((text) => text.includes('bob@anemailprovider.com'));
  for (const part of ['To: Bob <bob@anemailprovider.com>', '3 x Phone', `Message-ID: <${order.id}@orders>`]) assert.ok(mail.includes(part), mail);
});
