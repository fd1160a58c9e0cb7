// The state of the service in the back office, in a browser: what operators see and do.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { before } from 'node:test';
import { checkerOf, createArtifacts, intercept, isOperation, place, SCREENS, useToken } from './admin.js';
import { isTidy } from './layout.js';
import { at, openAdmin } from './pages.js';
import { browse, program, run, start, temporaryDirectory, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await createArtifacts();
});

const region = (page, name) => page.getByRole('region', { name, exact: true });
const dialog = (page) => page.getByRole('dialog');

const typed = (__typename, fields) => ({ __typename, ...fields });
const letter = (id, fields = {}) =>
  typed('DeadLetter', {
    id, sentAt: '2026-11-28T08:00:00.000Z', receives: 5, verdict: 'NEEDED', reason: 'the client has no version 3 yet', type: 'ORDER_PLACED',
    clientId: '7', productId: null, version: 4, ...fields,
  });
const state = (fields) =>
  typed('System', {
    apiVersion: '1.2.3',
    stores: ['DATABASE', 'QUEUE', 'READ_MODEL'].map((name) => typed('Store', { name, reachable: true, problems: [] })),
    projection: typed('Projection', { newestEventAt: '2026-11-28T09:00:00.000Z', lagSeconds: 0 }),
    outbox: typed('Outbox', { pending: 0, refused: 0, oldestAgeSeconds: 0 }),
    queue: typed('Queue', { visible: 0, inFlight: 0 }),
    readModel: typed('ReadModel', { generation: 1, format: 9, latestFormat: 9, rebuild: null, previous: null }),
    projectors: [typed('Projector', { version: '1.2.3', startedAt: '2026-11-28T00:00:00.000Z', state: 'CURRENT', lagSeconds: 0 })],
    sweep: null,
    deadLetters: typed('DeadLetters', { count: 0, problem: null }),
    ...fields,
  });
const TROUBLE = {
  stores: [
    typed('Store', { name: 'DATABASE', reachable: true, problems: [] }),
    typed('Store', { name: 'QUEUE', reachable: false, problems: [] }),
    typed('Store', { name: 'READ_MODEL', reachable: true, problems: ['maxmemory-policy is allkeys-lru: set it to noeviction'] }),
  ],
  projection: typed('Projection', { newestEventAt: '2026-11-28T09:00:00.000Z', lagSeconds: 300 }),
  outbox: typed('Outbox', { pending: 10_000, refused: 12, oldestAgeSeconds: 7_200 }),
  readModel: typed('ReadModel', {
    generation: 3, format: 8, latestFormat: 9,
    rebuild: typed('Rebuild', { generation: 4, replayedUntil: '2026-06-01T00:00:00.000Z', replayedPercent: 40 }),
    previous: typed('PreviousGeneration', { generation: 2, keptUntil: '2026-12-01T00:00:00.000Z' }),
  }),
  projectors: ['CURRENT', 'LAGGING', 'WAITING', 'FROZEN'].map((state) =>
    typed('Projector', { version: '1.2.3', startedAt: '2026-11-28T00:00:00.000Z', state, lagSeconds: 5 })),
  sweep: typed('Sweep', {
    comparedAt: '2026-11-28T09:00:00.000Z', roundBeganAt: '2026-11-28T00:00:00.000Z', roundFinished: true, differences: 3, repaired: 2,
    lastDifferenceAt: '2026-11-28T08:00:00.000Z', wrongSums: 1,
  }),
  deadLetters: typed('DeadLetters', { count: 3, problem: null }),
};
const LETTERS = [
  letter('a'),
  letter('b', { verdict: 'SUPERSEDED', type: 'PRODUCT_UPDATED', clientId: null, productId: '3' }),
  letter('c', { verdict: 'FOREIGN', type: null, clientId: null, version: null, reason: 'not an event: expected value at line 1 column 1' }),
];

/** Answers the queries of the page with this state and these dead letters, which tests may change. */
async function answer(page, shown) {
  await intercept(page, 'AdminSystem', (route) => route.fulfill({ json: shown.state }));
  await intercept(page, 'AdminDeadLetters', (route) => {
    const { letters } = shown;
    route.fulfill({ json: { data: { system: typed('System', { deadLetters: typed('DeadLetters', { count: letters.length, problem: null, nodes: letters }) }) } } });
  });
}
const whole = (fields) => ({ data: { system: state(fields) } });

test('a service without faults says so, and counts what waits', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page, pageErrors } = await newPage(t);
  await openAdmin(page, service, '/system');
  await page.getByText('Everything works').waitFor();
  await region(page, 'Queries').getByText('Up to date').waitFor();
  await region(page, 'Stores').getByText('Reachable').nth(2).waitFor();
  await region(page, 'Dead letters').getByText('No dead letters').waitFor();
  await page.getByText(/^Updated \d+s ago$/).waitFor();
  assert.deepEqual(pageErrors, []);
});

/** Starts a queue that other programs can use too, and the service on it. Resolves to the service and a function that adds a dead letter. */
async function startOnQueue(t) {
  const queue = spawn(program('standalone'), ['queue'], { env: { QUEUE_LISTEN_ADDR: '127.0.0.1:0' }, stdio: ['ignore', 'pipe', 'inherit'] });
  let endpoint;
  for await (const line of createInterface({ input: queue.stdout })) {
    endpoint = line.match(/AWS_ENDPOINT_URL=(\S+)/)?.[1];
    if (endpoint) break;
  }
  const aws = { AWS_ENDPOINT_URL: endpoint, AWS_REGION: 'us-east-1', AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: 'any' };
  const { stdout } = await run(program('projector'), ['queues', 'create'], { env: aws });
  const [QUEUE_URL, deadLetters] = stdout.match(/http\S+/g);
  const service = await start({ ...aws, QUEUE_URL, DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db` });
  t.after(async () => {
    await service.stop();
    queue.kill();
  });
  const addDeadLetter = async (MessageBody) => {
    const headers = { 'X-Amz-Target': 'AmazonSQS.SendMessage' };
    const response = await fetch(endpoint, { method: 'POST', headers, body: JSON.stringify({ QueueUrl: deadLetters, MessageBody }) });
    assert.ok(response.ok, await response.text());
  };
  return { service, addDeadLetter };
}

test('a dead letter appears by itself, and is deleted', async (t) => {
  const { service, addDeadLetter } = await startOnQueue(t);
  const { page, pageErrors } = await newPage(t);
  await openAdmin(page, service, '/system');
  await region(page, 'Dead letters').getByText('No dead letters').waitFor();
  await addDeadLetter('not an event');
  const letter = page.getByRole('table', { name: 'Dead letters' }).getByRole('row').filter({ hasText: 'unknown message' });
  await letter.filter({ hasText: 'Foreign' }).waitFor();
  await letter.getByRole('button', { name: 'Discard unknown message' }).click();
  await dialog(page).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('status').filter({ hasText: '1 dead letter was deleted.' }).waitFor();
  await region(page, 'Dead letters').getByText('No dead letters').waitFor();
  assert.deepEqual(pageErrors, []);
});

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`an operator sees what has failed and what to do (${screen})`, async (t) => {
    const service = await start();
    const { page, pageErrors } = await newPage(t, options);
    const isFine = checkerOf(page, 'system', screen);
    await openAdmin(page, service, '/system');
    await region(page, 'Dead letters').getByText('No dead letters').waitFor();
    await isFine('working');
    const shown = { state: whole(TROUBLE), letters: LETTERS };
    await answer(page, shown);
    await page.reload();
    await page.getByText(/^\d+ things need attention$/).waitFor();
    await page.getByText('The queue or topic refuses 12 events.').waitFor();
    await region(page, 'Stores').getByText('Not reachable').waitFor();
    await region(page, 'Read model').getByRole('progressbar', { name: 'Progress of the rebuild' }).waitFor();
    await region(page, 'Projectors').getByText('Stuck: restart it').waitFor();
    await page.getByRole('button', { name: 'Redrive order placed' }).waitFor();
    await isFine('trouble');
    await isTidy(page, `layout-system-${screen}`);
    await page.getByRole('button', { name: 'Redrive order placed' }).click();
    await dialog(page).getByRole('button', { name: 'Send it back' }).waitFor();
    await isFine('redrive');
    assert.deepEqual(pageErrors, []);
  });
}

test('dead letters are redriven and discarded, and the dialog stays until the outcome is known', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  const shown = { state: whole(TROUBLE), letters: LETTERS };
  await answer(page, shown);
  await openAdmin(page, service, '/system');
  const sent = [];
  let respond;
  await intercept(page, 'AdminRedriveDeadLetters', async (route, { input }) => {
    sent.push(input);
    await respond(route);
  });
  await page.getByRole('button', { name: 'Redrive order placed' }).click();
  await dialog(page).getByText('An event is applied only once.').waitFor();
  respond = (route) => route.abort();
  await dialog(page).getByRole('button', { name: 'Send it back' }).click();
  await dialog(page).getByRole('alert').filter({ hasText: 'The service cannot be reached. You can repeat it.' }).waitFor();

  let release;
  const held = new Promise((resolve) => (release = resolve));
  respond = async (route) => {
    await held;
    shown.letters = LETTERS.slice(1);
    shown.state = whole({ ...TROUBLE, deadLetters: typed('DeadLetters', { count: 2, problem: null }) });
    await route.fulfill({ json: { data: { redriveDeadLetters: typed('DeadLettersPayload', { ids: ['a'], skipped: 0, missingIds: [], hasMore: false }) } } });
  };
  await dialog(page).getByRole('button', { name: 'Send it back' }).click();
  await page.keyboard.press('Escape');
  assert.ok(await dialog(page).getByRole('button', { name: 'Close' }).first().isDisabled(), 'it cannot be closed while sending');
  release();
  await page.getByRole('status').filter({ hasText: '1 dead letter was sent back.' }).waitFor();
  await dialog(page).waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Redrive order placed' }).waitFor({ state: 'detached' });
  assert.deepEqual(sent, [{ ids: ['a'] }, { ids: ['a'] }]);

  await intercept(page, 'AdminDiscardDeadLetters', (route, { input }) =>
    route.fulfill({ json: { data: { discardDeadLetters: typed('DeadLettersPayload', { ids: [], skipped: 0, missingIds: input.ids, hasMore: false }) } } }));
  await page.getByRole('button', { name: 'Discard unknown message' }).click();
  await dialog(page).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('status').filter({ hasText: '1 message was not found' }).waitFor();

  respond = (route) =>
    route.fulfill({ json: { data: { redriveDeadLetters: typed('DeadLettersPayload', { ids: ['b'], skipped: 1, missingIds: [], hasMore: true }) } } });
  await page.getByRole('button', { name: 'Redrive all' }).click();
  await dialog(page).getByRole('button', { name: 'Send all back' }).click();
  await page.getByRole('status').filter({ hasText: '1 message that is no event of this service stayed. There may be more: repeat it.' }).waitFor();
  assert.deepEqual(sent.at(-1), { ids: null });
});

test('a part whose store does not respond is unknown, and the others remain', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  const error = (part) => ({ message: 'no', path: ['system', part], extensions: { code: 'READ_MODEL_UNAVAILABLE' } });
  const shown = { letters: [], state: { ...whole({ readModel: null, projectors: null, sweep: null }), errors: ['readModel', 'projectors', 'sweep'].map(error) } };
  await answer(page, shown);
  await openAdmin(page, service, '/system');
  for (const part of ['Read model', 'Projectors', 'Sweep']) await region(page, part).getByText('Unknown: its store does not respond').waitFor();
  await region(page, 'Queries').getByText('Up to date').waitFor();

  // When nothing can be read, the state from before stays.
  await page.route('**/graphql', (route) => route.abort());
  await page.getByRole('alert').filter({ hasText: 'The state cannot be read' }).waitFor();
  await region(page, 'Queries').getByText('Up to date').waitFor();
});

test('without the scope system:write nothing can be redriven, and without system:read nothing is shown', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const tokenWith = async (scope) => (await run(program('api'), ['token', '--scope', scope], { env: secret })).stdout.trim();
  const reader = await newPage(t);
  await answer(reader.page, { state: whole(TROUBLE), letters: LETTERS });
  await useToken(reader.page, await tokenWith('system:read'));
  await openAdmin(reader.page, service, '/system');
  await region(reader.page, 'Dead letters').getByText('Applied since').waitFor();
  assert.equal(await reader.page.getByRole('button', { name: /Redrive|Discard/ }).count(), 0);

  const other = await newPage(t);
  let asked = 0;
  other.page.on('request', (request) => (asked += isOperation(request, 'AdminSystem') ? 1 : 0));
  await useToken(other.page, await tokenWith('sales:read'));
  await other.page.goto(at(service, '/admin/system'));
  await other.page.getByText('You may not see this page').waitFor();
  assert.equal(asked, 0);
});
