// The options, in "context" of cdk.json or as `-c NAME=VALUE` of each command. docs/deploy-aws.md describes them.

import { isIPv4 } from 'node:net';
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

/** A wrong option. Its message says what to change, so the app prints nothing else. */
export class OptionError extends Error {}

/** Settings with these names make the api accept the tokens of an issuer. */
const ISSUER_SETTINGS = ['JWT_JWKS_URL', 'JWT_ISSUER'];
const CERTIFICATE = /^arn:[a-z-]+:acm:([a-z0-9-]+):\d{12}:certificate\/\S+$/;
const IMAGE = /^\S+$/;
/** Without a certificate, ranges of more addresses than those of a company are probably a mistake. */
const LARGEST_RANGE = 8;
/** The limit of ECS for the tasks of a service. */
const MOST_TASKS = 5000;
/** The limit of Lambda for the concurrent invocations of an event source mapping. */
const MOST_INVOCATIONS = 1000;

export function readOptions(node: Node): Options {
  const read = new Reader(node);
  const certificate = read.matching('certificate', CERTIFICATE, 'the ARN of a certificate of ACM, such as arn:aws:acm:REGION:ACCOUNT:certificate/ID');
  const options: Options = {
    // The user of the read model is NAME-read-model, and a name of ElastiCache has at most 40 characters.
    name: read.matching('name', /^(?=.{1,29}$)[a-z](-?[a-z0-9])*$/i, 'at most 29 letters, digits and single hyphens, such as Orders') ?? 'Orders',
    image: read.matching('image', IMAGE, 'an image such as example.com/orders:0.1.0'),
    apiImage: read.matching('apiImage', IMAGE, 'an image such as example.com/orders:0.1.0'),
    projectorImage: read.matching('projectorImage', IMAGE, 'an image such as example.com/orders:0.1.0'),
    // A build for another architecture is emulated, which takes hours.
    architecture: read.oneOf('architecture', ['arm64', 'x86_64'], arch() === 'arm64' ? 'arm64' : 'x86_64'),
    certificate,
    domain: read.matching('domain', /^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]+$/i, 'a name without https://, such as orders.example.com'),
    allowFrom: read.addresses('allowFrom') ?? (certificate ? ['0.0.0.0/0'] : []),
    signIn: read.oneOf('signIn', ['secret', 'cognito', 'settings'], 'secret'),
    projector: read.oneOf('projector', ['service', 'lambda'], 'service'),
    projectorFunction: read.text('projectorFunction'),
    databaseLogin: read.oneOf('databaseLogin', ['password', 'iam'], 'password'),
    collector: read.boolean('collector'),
    apiDeadLetters: read.boolean('apiDeadLetters'),
    currency: read.matching('currency', /^[A-Z]{3}$/, 'a code of ISO 4217 such as USD') ?? 'USD',
    apiSettings: read.settings('apiSettings'),
    projectorSettings: read.settings('projectorSettings'),
    apiTasks: read.tasks('apiTasks', { min: 2, max: 20 }),
    projectorTasks: read.tasks('projectorTasks', { min: 2, max: 10 }),
    databaseCapacity: read.capacity('databaseCapacity', { min: 0.5, max: 16 }),
    databaseStorage: read.oneOf('databaseStorage', ['standard', 'io-optimized'], 'standard'),
    cacheNode: read.matching('cacheNode', /^cache\.[a-z0-9]+\.[a-z0-9]+$/, 'a node type such as cache.t4g.small') ?? 'cache.t4g.small',
    natGateways: Number(read.oneOf('natGateways', ['1', '2'], '1')),
    deletionProtection: read.boolean('deletionProtection'),
    alarmEmail: read.matching('alarmEmail', /^[^\s@]+@[^\s@]+$/, 'one e-mail address'),
    monthlyBudget: read.amount('monthlyBudget'),
  };
  read.refuseOthers();
  check(options);
  return options;
}

function check(options: Options): void {
  if (options.allowFrom.length === 0) {
    throw new OptionError(
      'Without the option certificate, requests and tokens are not encrypted: in "context" of cdk.json set "allowFrom": "ADDRESS/32", the only address that may call',
    );
  }
  const large = options.allowFrom.find((range) => Number(range.split('/')[1]) < LARGEST_RANGE);
  if (options.certificate === undefined && large !== undefined) {
    throw new OptionError(`allowFrom=${large} needs the option certificate: tokens would cross the internet without encryption`);
  }
  if ((options.certificate === undefined) !== (options.domain === undefined)) {
    throw new OptionError('certificate and domain belong together: set both, or neither. The certificate must be valid for the domain');
  }
  const missing = ISSUER_SETTINGS.filter((name) => !options.apiSettings[name]);
  if (options.signIn === 'settings' && missing.length > 0) {
    throw new OptionError(`signIn=settings needs ${missing.join(' and ')} in apiSettings`);
  }
  // The CDK CLI sets the variable to the region in which it deploys.
  const region = process.env.CDK_DEFAULT_REGION;
  const certified = CERTIFICATE.exec(options.certificate ?? '')?.[1];
  if (region && certified !== undefined && certified !== region) {
    throw new OptionError(`the certificate is in ${certified}, but the region of the stack is ${region}: set AWS_REGION, or use a certificate of ${region}`);
  }
  if (options.projector === 'lambda' && options.projectorTasks.max > MOST_INVOCATIONS) {
    throw new OptionError(`projectorTasks: with projector=lambda the second number must be at most ${MOST_INVOCATIONS}`);
  }
  if (options.signIn === 'secret' && options.apiSettings.JWT_JWKS_URL) {
    throw new OptionError('JWT_JWKS_URL in apiSettings needs signIn=settings: with signIn=secret the api checks tokens with its secret');
  }
  if (options.signIn === 'cognito' && /aws|amazon|cognito/i.test(options.name)) {
    throw new OptionError(`signIn=cognito needs a name without aws, amazon and cognito: name=${options.name} would be part of the domain of the user pool`);
  }
  if (options.monthlyBudget !== undefined && options.alarmEmail === undefined) {
    throw new OptionError('monthlyBudget needs alarmEmail, which receives its e-mails');
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
    if (found === undefined) throw new OptionError(`${name}=${text} must be one of ${values.join(', ')}`);
    return found;
  }

  matching(name: string, pattern: RegExp, valid: string): string | undefined {
    const text = this.text(name);
    if (text !== undefined && !pattern.test(text)) throw new OptionError(`${name}=${text} must be ${valid}`);
    return text;
  }

  /** IPv4 ranges such as 192.0.2.1/32,198.51.100.0/24. */
  addresses(name: string): string[] | undefined {
    const ranges = this.text(name)?.split(',').map((range) => range.trim());
    for (const range of ranges ?? []) {
      const [address, bits] = range.split('/');
      if (!isIPv4(address) || !/^([0-9]|[12][0-9]|3[0-2])$/.test(bits) || range !== `${address}/${bits}`) {
        throw new OptionError(`${name}: "${range}" must be an IPv4 range such as 192.0.2.1/32`);
      }
    }
    return ranges;
  }

  amount(name: string): number | undefined {
    const text = this.matching(name, /^\d{1,9}(\.\d\d?)?$/, 'an amount such as 500');
    if (text === undefined) return undefined;
    if (Number(text) === 0) throw new OptionError(`${name}=${text} must be an amount such as 500`);
    return Number(text);
  }

  /** Such as 2-20. Without a task there is no load by which to scale, so 0 is only valid if no task may run. */
  tasks(name: string, otherwise: Range): Range {
    const range = this.range(name, otherwise);
    if (!(Number.isInteger(range.min) && Number.isInteger(range.max) && range.max <= MOST_TASKS && (range.min > 0 || range.max === 0))) {
      throw new OptionError(`${name}=${range.min}-${range.max} must be whole numbers from 1 to ${MOST_TASKS}, or 0-0`);
    }
    return range;
  }

  /** Such as 0.5-16. */
  capacity(name: string, otherwise: Range): Range {
    const range = this.range(name, otherwise);
    if (!(Number.isInteger(2 * range.min) && Number.isInteger(2 * range.max) && range.min >= 0.5 && range.max >= 1 && range.max <= 256)) {
      throw new OptionError(`${name}=${range.min}-${range.max} must be from 0.5 to 256 in steps of 0.5, and the second number at least 1`);
    }
    return range;
  }

  private range(name: string, otherwise: Range): Range {
    const text = this.matching(name, /^\d+(\.\d+)?-\d+(\.\d+)?$/, `a range such as ${otherwise.min}-${otherwise.max}`);
    if (text === undefined) return otherwise;
    const [min, max] = text.split('-').map(Number);
    if (min > max) throw new OptionError(`${name}=${text} must be a range such as ${otherwise.min}-${otherwise.max}`);
    return { min, max };
  }

  /** An object in cdk.json, or JSON on the command line. */
  settings(name: string): Record<string, string> {
    const settings = this.object(this.value(name) ?? {});
    if (settings === undefined) throw new OptionError(`${name} must be an object of strings, such as {"GRAPHIQL": "true"}`);
    const wrong = Object.keys(settings).find((setting) => !/^[A-Z][A-Z0-9_]*$/.test(setting));
    if (wrong !== undefined) throw new OptionError(`${name}: "${wrong}" must be the name of a setting such as GRAPHIQL`);
    return settings;
  }

  private object(value: unknown): Record<string, string> | undefined {
    let object = value;
    try {
      if (typeof value === 'string') object = JSON.parse(value);
    } catch {
      return undefined;
    }
    if (typeof object !== 'object' || object === null || Array.isArray(object)) return undefined;
    return Object.values(object).every((value) => typeof value === 'string') ? (object as Record<string, string>) : undefined;
  }

  refuseOthers(): void {
    // The names of the CDK have a colon or an at sign.
    const names = Object.keys(this.node.getAllContext()).filter((name) => !/[:@]/.test(name));
    const unknown = names.find((name) => !this.known.has(name));
    if (unknown !== undefined) throw new OptionError(`there is no option ${unknown}; docs/deploy-aws.md lists the options`);
  }

  private value(name: string): unknown {
    this.known.add(name);
    const value: unknown = this.node.tryGetContext(name);
    return value === '' ? undefined : value;
  }
}
