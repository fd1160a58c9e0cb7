// What the tests have in common: the standalone service as a process, above all.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, test as testOfNode } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const programs = process.env.PROGRAMS ?? fileURLToPath(new URL('../../target/debug', import.meta.url));

/** Where this program is. */
export const program = (name) => path.join(programs, name);

/** The directory of package.json. */
export const web = fileURLToPath(new URL('..', import.meta.url));

/** A test that fails when it takes too long. */
export const test = (name, body) => testOfNode(name, { timeout: 60_000 }, body);

const services = new Set();
const directories = [];
const browsers = [];
async function cleanUp() {
  await Promise.all(browsers.map((browser) => browser.close()));
  await Promise.all([...services].map((service) => service.stop()));
  await Promise.all(directories.map((directory) => rm(directory, { recursive: true })));
}
after(cleanUp, { timeout: 60_000 });
// When tests take too long, the test runner ends them by a signal.
process.once('SIGTERM', () => process.exit(1));
process.once('exit', () => services.forEach((service) => service.kill()));

/**
 * Starts the service on a free port; resolves to its address, a token, the headers that carry it, and what can be done
 * with the service. It is stopped when the tests of the file are over, at the latest.
 */
export async function start(variables = {}) {
  const standalone = spawn(program('standalone'), {
    env: { LISTEN_ADDR: '127.0.0.1:0', RUST_LOG: 'warn', ...variables },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(standalone, 'exit');
  const service = {
    async post(request, token = service.token) {
      const headers = { ...bearer(token), 'Content-Type': 'application/json' };
      const response = await fetch(service.url, { method: 'POST', headers, body: JSON.stringify(request) });
      return response.json();
    },
    async placeOrder(clientId) {
      const { data } = await service.post({ query: PLACE_ORDER, variables: orderOf(clientId) });
      return data.placeOrder.clientVersion;
    },
    async stop() {
      standalone.kill();
      await ended;
      services.delete(service);
    },
    kill: () => standalone.kill('SIGKILL'),
  };
  services.add(service);
  for await (const line of createInterface({ input: standalone.stdout })) {
    service.url ??= line.match(/POST (http:\S+)/)?.[1];
    service.token = line.match(/^TOKEN=(\S+)/)?.[1];
    if (!service.token) continue;
    service.headers = bearer(service.token);
    return service;
  }
  throw new Error('the service ended before it was ready');
}

/** A browser; resolves to what opens a page of its own, with what it complained of and the hosts that it asked. */
export async function browse() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', // which root cannot have
      '--disable-gpu',
      '--disable-quic',
      '--disable-sync',
      '--disable-background-networking',
      '--disable-component-update',
      '--no-first-run',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ],
  });
  browsers.push(browser);
  return async (t, options) => {
    const context = await browser.newContext({ viewport: { width: 1440, height: 810 }, ...options });
    t.after(() => context.close());
    const page = await context.newPage();
    const complaints = [];
    const hosts = new Set();
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text()); // what the security policy forbids is one
    });
    for (const event of ['request', 'websocket']) {
      page.on(event, (of) => {
        const { protocol, host } = new URL(of.url());
        if (protocol !== 'data:') hosts.add(host);
      });
    }
    return { page, complaints, hosts };
  };
}

/** The headers that carry this token. */
export const bearer = (token) => ({ Authorization: `Bearer ${token}` });

export const PLACE_ORDER = `mutation PlaceOrder($input: PlaceOrderInput!) {
  placeOrder(input: $input) { clientVersion userErrors { message } }
}`;

/** The variables of an order by this client. */
export const orderOf = (clientId) => ({ input: { clientId, items: [{ productId: '3', quantity: 1 }] } });

/** Runs a program to its end; resolves to its exit status and all that it printed. */
export function run(program, args, options) {
  return new Promise((resolve) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      resolve({ status: error ? error.code : 0, output: stdout + stderr });
    });
  });
}

/** A new directory, removed when the tests of the file are over. */
export async function temporaryDirectory() {
  const directory = await mkdtemp(path.join(tmpdir(), 'orders-'));
  directories.push(directory);
  return directory;
}
