// The standalone service as a process, for tests.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

const programs = process.env.PROGRAMS ?? fileURLToPath(new URL('../../target/debug', import.meta.url));

/** Starts the service on a free port; resolves to its address, a token and `stop`. */
export async function start(variables = {}) {
  const service = spawn(path.join(programs, 'standalone'), {
    env: { LISTEN_ADDR: '127.0.0.1:0', ...variables },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => service.once('exit', resolve));
  const stop = async () => {
    service.kill();
    await ended;
  };
  let url;
  for await (const line of createInterface({ input: service.stdout })) {
    url ??= line.match(/POST (http:\S+)/)?.[1];
    const token = line.match(/^TOKEN=(\S+)/)?.[1];
    if (token) return { url, token, stop };
  }
  throw new Error('the service ended before it was ready');
}
