// What the emulator has created of a template, and its programs on this machine, with local stores instead of the managed ones.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Container, Resource } from '../synth.js';
import { Emulator, type Template, strip } from './emulator.js';
import { freePort, start, startPostgres, startRedis, until } from './servers.js';

const { PROGRAMS = '' } = process.env;
const CREDENTIALS = { AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: 'any' };

/** A program that serves at this address. */
export interface Served {
  readonly url: string;
  readonly process: ChildProcess;
}

export class Deployed {
  /** Variables that replace those of managed stores. */
  private local: Record<string, string> = {};
  /** The local Redis. */
  redis!: ChildProcess;

  private constructor(
    private readonly template: Template,
    readonly emulator: Emulator,
    readonly outputs: Record<string, string>,
  ) {}

  /** Creates the stack of the template in this file, beside which the CDK has put the code of functions. */
  static async create(file: string): Promise<Deployed> {
    const template: Template = JSON.parse(readFileSync(file, 'utf8'));
    strip(template);
    const emulator = await Emulator.start();
    await emulator.uploadCode(template, dirname(file));
    const deployed = new Deployed(template, emulator, await emulator.create('Orders', template));
    await deployed.startStores();
    if (deployed.outputs.Function !== undefined) await deployed.configure(deployed.outputs.Function);
    return deployed;
  }

  /** The only resource of a type. */
  resource(type: string): Resource['Properties'] {
    return Object.values(this.template.Resources).find(({ Type }) => Type === type)!.Properties;
  }

  /** Runs the command of a container until it ends. */
  async run(name: string): Promise<void> {
    const { Command: [program, ...args], ...container } = await this.container(name);
    execFileSync(`${PROGRAMS}/${program}`, args, { env: this.variables(container), stdio: 'pipe' });
  }

  /** Runs a program, with the variables of the AWS SDK and the secret of tokens. */
  readonly command = (program: string, ...args: string[]): string => {
    const { JWT_SECRET, AWS_ENDPOINT_URL } = this.local;
    const env = { ...CREDENTIALS, AWS_ENDPOINT_URL, AWS_REGION: 'us-east-1', JWT_SECRET };
    return execFileSync(`${PROGRAMS}/${program}`, args, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  };

  /** Starts the program of a container, on another port than in the template, and waits until it is ready. */
  async serve(name: string): Promise<Served> {
    const { Command: [program, ...args], ...container } = await this.container(name);
    const address = `127.0.0.1:${await freePort()}`;
    const variables = this.variables(container);
    // Only the port of the api is open.
    assert.equal(variables.LISTEN_ADDR, container.PortMappings?.length ? '0.0.0.0:8080' : undefined);
    const process = start(`${PROGRAMS}/${program}`, args, { ...variables, LISTEN_ADDR: address });
    await until(`${name} is ready`, async () => (await fetch(`http://${address}/health/ready`)).ok);
    return { url: `http://${address}`, process };
  }

  /** A container with its variables, as the emulator has resolved them. The emulator loses secrets: these are as in the template. */
  async container(name: string): Promise<Container> {
    const tasks = Object.values(this.template.Resources).filter(({ Type }) => Type === 'AWS::ECS::TaskDefinition');
    const task = tasks.find(({ Properties }) => Properties.ContainerDefinitions.some(({ Name }: Container) => Name === name))!.Properties;
    const target = 'AmazonEC2ContainerServiceV20141113.DescribeTaskDefinition';
    const { taskDefinition } = await this.emulator.json('ecs', target, { taskDefinition: task.Family });
    const created = taskDefinition.containerDefinitions.find((container: any) => container.name === name);
    const planned: Container = task.ContainerDefinitions.find(({ Name }: Container) => Name === name);
    return { ...planned, Command: created.command, Environment: created.environment.map(({ name, value }: any) => ({ Name: name, Value: value })) };
  }

  /** The variables of a container. Of the local ones it gets those that it has in the template, and those of the AWS SDK. */
  private variables(container: Pick<Container, 'Environment' | 'Secrets'>): Record<string, string> {
    const own = Object.fromEntries((container.Environment ?? []).map(({ Name, Value }) => [Name, String(Value)]));
    const secrets = (container.Secrets ?? []).map(({ Name }) => Name);
    const replaced = Object.entries(this.local).filter(([name]) => name in own || secrets.includes(name) || name.startsWith('AWS_'));
    return { ...own, ...Object.fromEntries(replaced) };
  }

  private async startStores(): Promise<void> {
    const { username, password } = JSON.parse(await this.secret(/^Generated by the CDK for stack/));
    // The emulator may put punctuation into it, and Redis reads its configuration as text.
    const redisPassword = (await this.secret(/user orders/)).replace(/\W/g, '');
    await this.emulator.json('secretsmanager', 'secretsmanager.PutSecretValue', { SecretId: await this.secretArn(/user orders/), SecretString: redisPassword });
    const user = this.resource('AWS::ElastiCache::User');
    const postgres = await startPostgres(username, password);
    const redis = await startRedis(user.UserName, user.AccessString, redisPassword);
    this.redis = redis.process;
    this.local = {
      // Host and password are in other variables.
      DATABASE_URL: 'postgres:///?sslmode=disable',
      PGHOST: '127.0.0.1',
      PGPORT: String(postgres),
      PGUSER: username,
      PGPASSWORD: password,
      PGDATABASE: 'orders',
      REDIS_URL: `redis://127.0.0.1:${redis.port}`,
      REDIS_PASSWORD: redisPassword,
      JWT_SECRET: await this.secret(/Signs the tokens/),
      AWS_ENDPOINT_URL: this.emulator.url,
      ...CREDENTIALS,
    };
  }

  /** Gives a function the local Redis, and the address of the emulator, where it reads the password. */
  private async configure(name: string): Promise<void> {
    const path = `/2015-03-31/functions/${name}/configuration`;
    const { Environment } = await this.emulator.rest('lambda', 'GET', path);
    const { REDIS_URL, AWS_ENDPOINT_URL } = this.local;
    assert(!('REDIS_PASSWORD' in Environment.Variables));
    const Variables = { ...Environment.Variables, REDIS_URL, AWS_ENDPOINT_URL };
    await this.emulator.rest('lambda', 'PUT', path, { Environment: { Variables } });
  }

  /** The text of the secret with this description. */
  private async secret(description: RegExp): Promise<string> {
    const SecretId = await this.secretArn(description);
    return (await this.emulator.json('secretsmanager', 'secretsmanager.GetSecretValue', { SecretId })).SecretString;
  }

  private async secretArn(description: RegExp): Promise<string> {
    const { SecretList } = await this.emulator.json('secretsmanager', 'secretsmanager.ListSecrets', { MaxResults: 100 });
    return SecretList.find((secret: any) => description.test(secret.Description ?? '')).ARN;
  }
}
