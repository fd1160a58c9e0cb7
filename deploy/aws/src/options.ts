// The options, in "context" of cdk.json or as `-c NAME=VALUE` of each command. docs/deploy-aws.md describes them.

import { arch } from 'node:os';
import type { Node } from 'constructs';

export interface Options {
  /** Name of the stack. */
  readonly name: string;
  /** Image with the programs. Without it the Dockerfile of this repository is built. */
  readonly image?: string;
  /** Other images of the apis and of the projectors, while a release replaces them one after the other. */
  readonly apiImage?: string;
  readonly projectorImage?: string;
  readonly architecture: 'arm64' | 'x86_64';
  /** ARN of the certificate for HTTPS. */
  readonly certificate?: string;
  /** The name of the service in the DNS, for which the certificate is valid. */
  readonly domain?: string;
  /** IPv4 address ranges that may call the load balancer. */
  readonly allowFrom: string[];
  /** Who signs tokens: the api with a secret, Cognito, or an issuer that is named in apiSettings. */
  readonly signIn: 'secret' | 'cognito' | 'settings';
  /** What applies events to the read model: tasks, or a Lambda function. */
  readonly projector: 'service' | 'lambda';
  /** Directory of the built function. */
  readonly projectorFunction?: string;
  readonly databaseLogin: 'password' | 'iam';
  /** Whether a collector runs beside each program and sends metrics and traces to CloudWatch. */
  readonly collector: boolean;
  /** Whether the api may read, redrive and discard dead letters, for operators without a shell. */
  readonly apiDeadLetters: boolean;
  readonly currency: string;
  /** Further settings of the api and of the projector (docs/configuration.md). */
  readonly apiSettings: Record<string, string>;
  readonly projectorSettings: Record<string, string>;
  /** The smallest and the largest number of tasks. Of a function, the largest number of concurrent invocations. */
  readonly apiTasks: Range;
  readonly projectorTasks: Range;
  /** Aurora capacity units (ACU) of each instance: 2 GiB of memory and the processors that belong to it. */
  readonly databaseCapacity: Range;
  /** Whether input and output are in the price of the storage, which then costs more. */
  readonly databaseStorage: 'standard' | 'io-optimized';
  readonly cacheNode: string;
  readonly natGateways: number;
  /** Whether the stack, the database, the load balancer and the user pool refuse to be deleted. */
  readonly deletionProtection: boolean;
  /** Receives alarms. */
  readonly alarmEmail?: string;
  /** The planned costs of the account in US dollars a month. */
  readonly monthlyBudget?: number;
}

export interface Range {
  readonly min: number;
  readonly max: number;
}

/** Settings with these names make the api accept the tokens of an issuer. */
const ISSUER_SETTINGS = ['JWT_JWKS_URL', 'JWT_ISSUER'];

export function readOptions(node: Node): Options {
  const read = new Reader(node);
  const certificate = read.text('certificate');
  const options: Options = {
    name: read.text('name') ?? 'Orders',
    image: read.text('image'),
    apiImage: read.text('apiImage'),
    projectorImage: read.text('projectorImage'),
    // A build for another architecture is emulated, which takes hours.
    architecture: read.oneOf('architecture', ['arm64', 'x86_64'], arch() === 'arm64' ? 'arm64' : 'x86_64'),
    certificate,
    domain: read.text('domain'),
    allowFrom: read.list('allowFrom') ?? (certificate ? ['0.0.0.0/0'] : []),
    signIn: read.oneOf('signIn', ['secret', 'cognito', 'settings'], 'secret'),
    projector: read.oneOf('projector', ['service', 'lambda'], 'service'),
    projectorFunction: read.text('projectorFunction'),
    databaseLogin: read.oneOf('databaseLogin', ['password', 'iam'], 'password'),
    collector: read.boolean('collector'),
    apiDeadLetters: read.boolean('apiDeadLetters'),
    currency: read.text('currency') ?? 'USD',
    apiSettings: read.settings('apiSettings'),
    projectorSettings: read.settings('projectorSettings'),
    apiTasks: read.range('apiTasks', { min: 2, max: 20 }),
    projectorTasks: read.range('projectorTasks', { min: 2, max: 10 }),
    databaseCapacity: read.range('databaseCapacity', { min: 0.5, max: 16 }),
    databaseStorage: read.oneOf('databaseStorage', ['standard', 'io-optimized'], 'standard'),
    cacheNode: read.text('cacheNode') ?? 'cache.t4g.small',
    natGateways: Number(read.text('natGateways') ?? 1),
    deletionProtection: read.boolean('deletionProtection'),
    alarmEmail: read.text('alarmEmail'),
    monthlyBudget: read.amount('monthlyBudget'),
  };
  read.refuseOthers();
  check(options);
  return options;
}

function check(options: Options): void {
  if (options.allowFrom.length === 0) {
    throw new Error(
      'Without the option certificate, requests and tokens are not encrypted: in "context" of cdk.json set "allowFrom": "ADDRESS/32", the only address that may call',
    );
  }
  if (options.certificate === undefined && options.allowFrom.includes('0.0.0.0/0')) {
    throw new Error('allowFrom=0.0.0.0/0 needs the option certificate: tokens would cross the internet without encryption');
  }
  if ((options.certificate === undefined) !== (options.domain === undefined)) {
    throw new Error('certificate and domain belong together: set both, or neither. The certificate must be valid for the domain');
  }
  const missing = ISSUER_SETTINGS.filter((name) => !options.apiSettings[name]);
  if (options.signIn === 'settings' && missing.length > 0) {
    throw new Error(`signIn=settings needs ${missing.join(' and ')} in apiSettings`);
  }
  if (![1, 2].includes(options.natGateways)) {
    throw new Error('natGateways must be 1 or 2');
  }
  if (options.monthlyBudget !== undefined && options.alarmEmail === undefined) {
    throw new Error('monthlyBudget needs alarmEmail, which receives its e-mails');
  }
}

/** Reads the context. An option that does not exist is probably misspelt, so it is refused. */
class Reader {
  private readonly known = new Set<string>();

  constructor(private readonly node: Node) {}

  text(name: string): string | undefined {
    const value = this.value(name);
    return value === undefined ? undefined : String(value);
  }

  boolean(name: string): boolean {
    return this.oneOf(name, ['true', 'false'], 'false') === 'true';
  }

  oneOf<T extends string>(name: string, values: readonly T[], otherwise: T): T {
    const text = this.text(name) ?? otherwise;
    const found = values.find((value) => value === text);
    if (found === undefined) throw new Error(`${name}=${text} must be one of ${values.join(', ')}`);
    return found;
  }

  list(name: string): string[] | undefined {
    return this.text(name)?.split(',');
  }

  amount(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    if (!(Number(text) > 0)) throw new Error(`${name}=${text} must be an amount such as 500`);
    return Number(text);
  }

  /** Such as 2-20. */
  range(name: string, otherwise: Range): Range {
    const text = this.text(name);
    if (text === undefined) return otherwise;
    const [min, max] = text.split('-').map(Number);
    if (!(min >= 0 && max >= min)) throw new Error(`${name}=${text} must be a range such as ${otherwise.min}-${otherwise.max}`);
    return { min, max };
  }

  /** An object in cdk.json, or JSON on the command line. */
  settings(name: string): Record<string, string> {
    const value = this.value(name) ?? {};
    const settings: unknown = typeof value === 'string' ? JSON.parse(value) : value;
    const isSettings = (value: unknown): value is Record<string, string> =>
      typeof value === 'object' && value !== null && Object.values(value).every((value) => typeof value === 'string');
    if (!isSettings(settings)) throw new Error(`${name} must be an object of strings, such as {"GRAPHIQL": "true"}`);
    return settings;
  }

  refuseOthers(): void {
    // The names of the CDK have a colon or an at sign.
    const names = Object.keys(this.node.getAllContext()).filter((name) => !/[:@]/.test(name));
    const unknown = names.find((name) => !this.known.has(name));
    if (unknown !== undefined) throw new Error(`there is no option ${unknown}; docs/deploy-aws.md lists the options`);
  }

  private value(name: string): unknown {
    this.known.add(name);
    const value: unknown = this.node.tryGetContext(name);
    return value === '' ? undefined : value;
  }
}
