// examples/confirmation_mails.ts: two processes with one queue, one database and an SMTP server that keeps the mails.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import { CreateQueueCommand, GetQueueAttributesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { transformWithOxc } from 'vite';
import { program, temporaryDirectory, test, web } from './support.js';

const root = path.join(web, '..');
const example = async (type) => JSON.parse(await readFile(path.join(root, `events/${type}.schema.json`), 'utf8')).examples[0];

/** Starts a process that ends after the tests. */
function start(command, args, options) {
  const started = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], ...options });
  after(() => started.kill());
  return started;
}

/** Waits until a process prints a line with this pattern. Returns its group. */
async function printed({ stdout }, pattern) {
  for await (const line of createInterface({ input: stdout })) {
    const match = line.match(pattern);
    if (match) return match[1];
  }
  throw new Error(`the process ended before it printed ${pattern}`);
}

async function startPostgres() {
  const script = '. scripts/temporary-postgres.sh; start_postgres; echo "directory $work"; read -r _';
  const env = { ...process.env, PROGRAMS: path.dirname(program('migration')) };
  const directory = await printed(start('bash', ['-euc', script], { cwd: root, env }), /^directory (.+)/);
  return `postgres://orders@localhost/orders?host=${directory}`;
}

/** An SMTP server that refuses the first mail. */
async function startSmtp(mails) {
  let isFirst = true;
  const server = createServer((socket) => {
    let mail;
    const reply = (line) => socket.write(`${line}\r\n`);
    socket.on('error', () => {});
    reply('220 sink');
    createInterface({ input: socket }).on('line', (line) => {
      if (mail && line !== '.') return mail.push(line);
      if (mail && !isFirst) mails.push(mail.join('\n'));
      if (line === '.' && isFirst) reply('451 not now');
      else reply(line === 'DATA' ? '354 go on' : '250 ok');
      if (line === '.') isFirst = false;
      mail = line === 'DATA' ? [] : undefined;
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  after(() => server.close());
  return `smtp://127.0.0.1:${server.address().port}`;
}

/** Compiles the example. */
async function compile() {
  const directory = await temporaryDirectory();
  await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
  const source = await readFile(path.join(root, 'examples/confirmation_mails.ts'), 'utf8');
  const file = path.join(directory, 'confirmation_mails.mjs');
  await writeFile(file, (await transformWithOxc(source, 'confirmation_mails.ts')).code);
  return file;
}

test('the example in TypeScript confirms each order once, however often its event arrives', async () => {
  const mails = [];
  const queue = start(program('standalone'), ['queue'], { env: { QUEUE_LISTEN_ADDR: '127.0.0.1:0' } });
  const [endpoint, database, smtp, file] = await Promise.all([
    printed(queue, /AWS_ENDPOINT_URL=(\S+)/),
    startPostgres(),
    startSmtp(mails),
    compile(),
  ]);
  const env = {
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'any',
    AWS_SECRET_ACCESS_KEY: 'any',
    DATABASE_URL: database,
    FROM: 'Shop <shop@example.com>',
    SMTP_URL: smtp,
  };
  const sqs = new SQSClient({ endpoint, region: 'us-east-1', credentials: { accessKeyId: 'any', secretAccessKey: 'any' } });
  const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: 'mails', Attributes: { VisibilityTimeout: '1' } }));

  const order = await example('orders.OrderPlaced.v1');
  const future = { ...order, type: 'orders.OrderPlaced.v2', data: null };
  const others = [await example('orders.OrderCancelled.v1'), await example('products.ProductCreated.v1'), future];
  const hostile = { clientName: 'Eve\r\nBcc: all@example.com', clientEmail: 'eve@example.com' };
  const second = { ...order, sequence: '0000000008', data: { ...order.data, ...hostile } };
  for (const event of [...others, second, ...Array(10).fill(order)]) {
    await sqs.send(new SendMessageCommand({ QueueUrl, MessageBody: JSON.stringify(event) }));
  }
  // They log that the first mail is refused.
  for (let i = 0; i < 2; i++) start(process.execPath, [file], { env: { ...env, QUEUE_URL: endpoint + new URL(QueueUrl).pathname }, stdio: 'ignore' });

  const AttributeNames = ['ApproximateNumberOfMessages', 'ApproximateNumberOfMessagesNotVisible'];
  // The embedded queue does not count a message that was received before.
  for (let left; left !== 0 || mails.length < 2; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl, AttributeNames }));
    left = AttributeNames.reduce((sum, name) => sum + Number(Attributes[name]), 0);
  }
  assert.equal(mails.length, 2, mails.join('\n\n'));
  const mail = mails.find((text) => text.includes('bob@anemailprovider.com'));
  for (const part of ['To: Bob <bob@anemailprovider.com>', '3 x Phone', `Message-ID: <${order.id}@orders>`]) assert.ok(mail.includes(part), mail);
  const [header] = mails.find((text) => text.includes('eve@example.com')).split('\n\n');
  assert.doesNotMatch(header, /^Bcc:/m);
});
