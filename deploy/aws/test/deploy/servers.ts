// Processes of a test on free ports of this machine. They end with it.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const running: { process: ChildProcess; signal: NodeJS.Signals }[] = [];
const directories: string[] = [];

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  if (typeof address !== 'object' || address === null) throw new Error('no port is free');
  return address.port;
}

/** Starts a process that ends with the test, by this signal. */
export function start(program: string, args: string[], variables: Record<string, string>, signal: NodeJS.Signals = 'SIGKILL'): ChildProcess {
  const started = spawn(program, args, { env: { PATH: process.env.PATH, PYTHONPATH: process.env.PYTHONPATH, ...variables } });
  running.push({ process: started, signal });
  for (const stream of [started.stdout, started.stderr]) stream.on('data', (data) => output.push(`${program}: ${data}`));
  started.on('error', (error) => output.push(`${program}: ${error}`));
  return started;
}

/** What the processes have printed. */
export const output: string[] = [];

export async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 60_000;
  let failure: unknown;
  while (Date.now() < deadline) {
    try {
      if (await holds()) return;
    } catch (error) {
      failure = error;
    }
    await new Promise((passed) => setTimeout(passed, 50));
  }
  throw new Error(`not within a minute: ${what} ${failure ?? ''}`);
}

/** PostgreSQL with a user who has a password, and a database of the same name. */
export async function startPostgres(user: string, password: string): Promise<number> {
  const versions = readdirSync('/usr/lib/postgresql').sort((a, b) => Number(b) - Number(a));
  const bin = `/usr/lib/postgresql/${versions[0]}/bin`;
  // It refuses to run as root.
  const asUser = process.getuid?.() === 0 ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups'] : ['env'];
  const [directory, port] = [temporary(), await freePort()];
  const passwordFile = join(directory, 'password');
  writeFileSync(passwordFile, password);
  chmodSync(passwordFile, 0o644);
  const run = (program: string, args: string[]) => execFileSync(asUser[0], [...asUser.slice(1), `${bin}/${program}`, ...args], { cwd: directory });
  run('initdb', ['-D', `${directory}/data`, '-U', user, '--pwfile', passwordFile, '--auth', 'scram-sha-256', '--no-sync']);
  const settings = ['-c', `unix_socket_directories=${directory}`, '-c', 'fsync=off'];
  start(asUser[0], [...asUser.slice(1), `${bin}/postgres`, '-D', `${directory}/data`, '-p', String(port), '-h', '127.0.0.1', ...settings], {}, 'SIGQUIT');
  const connection = { PGHOST: '127.0.0.1', PGPORT: String(port), PGUSER: user, PGPASSWORD: password, PATH: process.env.PATH };
  await until('PostgreSQL runs', async () => {
    execFileSync(`${bin}/psql`, ['-d', 'postgres', '-c', `CREATE DATABASE "${user}"`], { env: connection, stdio: 'ignore' });
    return true;
  });
  return port;
}

/** Redis with this user only. */
export async function startRedis(user: string, access: string, password: string): Promise<{ process: ChildProcess; port: number }> {
  const [directory, port] = [temporary(), await freePort()];
  const configuration = join(directory, 'redis.conf');
  const lines = [`bind 127.0.0.1`, `port ${port}`, 'save ""', `dir ${directory}`, `user ${user} >${password} ${access}`, 'user default off'];
  writeFileSync(configuration, lines.join('\n'));
  return { process: start('redis-server', [configuration], {}), port };
}

export function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), 'deploy-'));
  // For the user of PostgreSQL.
  chmodSync(directory, 0o777);
  directories.push(directory);
  return directory;
}

export async function stopAll(): Promise<void> {
  await Promise.all(running.map(async ({ process: started, signal }) => {
    if (started.exitCode !== null || started.signalCode !== null) return;
    const exited = new Promise((exit) => started.once('exit', exit));
    started.kill(signal);
    await exited;
  }));
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
}
