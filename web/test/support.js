// Helpers of the tests: the standalone service as a process, browsers, programs and directories.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, test as testOfNode } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const programs = process.env.PROGRAMS ?? fileURLToPath(new URL('../../target/debug', import.meta.url));

/** The path of a program. */
export const program = (name) => path.join(programs, name);

/** The directory of package.json. */
export const web = fileURLToPath(new URL('..', import.meta.url));

/** A test with a time limit. */
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
// The test runner sends this signal when tests take too long.
process.once('SIGTERM', () => process.exit(1));
process.once('exit', () => services.forEach((service) => service.kill()));

/**
 * Starts the service on a free port. Resolves to its URL, a token, the headers with the token, and functions that use the
 * service. It stops at the end of the test file at the latest.
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
    pause: () => standalone.kill('SIGSTOP'),
    resume: () => standalone.kill('SIGCONT'),
    kill: () => standalone.kill('SIGKILL'),
  };
  services.add(service);
  for await (const line of createInterface({ input: standalone.stdout })) {
    service.url ??= line.match(/POST (http:\S+)/)?.[1];
    service.token = line.match(/^export TOKEN=(\S+)/)?.[1];
    if (service.token) service.headers = bearer(service.token);
    // With an identity provider, there is no token.
    else if (!line.startsWith('Tokens are verified')) continue;
    return service;
  }
  throw new Error('the service ended before it was ready');
}

/** Starts a Redis on a free port, which keeps its data. Resolves to its URL, and functions that stop it and start it again. */
export async function startRedis() {
  const [port, directory] = [String(await freePort()), await temporaryDirectory()];
  const settings = ['--bind', '127.0.0.1', '--port', port, '--dir', directory, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always'];
  let server;
  const redis = {
    url: `redis://127.0.0.1:${port}`,
    async start() {
      server = spawn('redis-server', settings, { stdio: ['ignore', 'pipe', 'inherit'] });
      for await (const line of createInterface({ input: server.stdout })) if (line.includes('Ready to accept connections')) return;
      throw new Error('redis-server has ended');
    },
    async stop() {
      if (server.exitCode !== null) return;
      server.kill();
      await once(server, 'exit');
    },
    kill: () => server.kill('SIGKILL'),
  };
  services.add(redis);
  await redis.start();
  return redis;
}

/** A port that is free now. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts a browser. Resolves to a function that opens a page in a context of its own, with the errors of the page and the hosts that it contacted. */
export async function browse() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', // root cannot have a sandbox
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
    const pageErrors = [];
    const hosts = new Set();
    page.on('pageerror', (error) => pageErrors.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') pageErrors.push(message.text()); // also violations of the security policy
    });
    for (const event of ['request', 'websocket']) {
      page.on(event, (of) => {
        const { protocol, host } = new URL(of.url());
        if (protocol !== 'data:') hosts.add(host);
      });
    }
    return { page, pageErrors, hosts };
  };
}

/** The headers with this token. */
export const bearer = (token) => ({ Authorization: `Bearer ${token}` });

export const PLACE_ORDER = `mutation PlaceOrder($input: PlaceOrderInput!) {
  placeOrder(input: $input) { clientVersion userErrors { message } }
}`;

/** The variables of an order by this client. */
export const orderOf = (clientId) => ({ input: { clientId, items: [{ productId: '3', quantity: 1 }] } });

/** Runs a program. Resolves to its exit status and its output. */
export function run(program, args, options) {
  return new Promise((resolve) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      resolve({ status: error ? error.code : 0, stdout, output: stdout + stderr });
    });
  });
}

/** Creates a directory that is removed at the end of the test file. */
export async function temporaryDirectory() {
  const directory = await mkdtemp(path.join(tmpdir(), 'orders-'));
  directories.push(directory);
  return directory;
}
