// Synthesises the stack as `cdk` does, and reads what the repository says.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { App } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { readOptions } from '../src/options.js';
import { OrderService } from '../src/stack.js';

// scripts/check-deploy validates templates. Here it would take most of the time.
process.env.CDK_VALIDATION = 'false';

/** From build/test. */
export const REPOSITORY = fileURLToPath(new URL('../../../..', import.meta.url));
export const CALLER = { image: 'example', allowFrom: '192.0.2.1/32' };
export const CERTIFICATE = 'arn:aws:acm:eu-central-1:123456789012:certificate/example';
/** Most options. */
export const FULL = {
  image: 'example',
  certificate: CERTIFICATE,
  domain: 'orders.example.com',
  signIn: 'cognito',
  databaseLogin: 'iam',
  collector: 'true',
  alarmEmail: 'operator@example.com',
};

/** With the projector as a Lambda function. Of its program there are only the bytes that say that it is for x86_64. */
export const FUNCTION = { ...CALLER, projector: 'lambda', architecture: 'x86_64', projectorFunction: temporary() };
const header = Buffer.alloc(20);
header.writeUInt16LE(0x3e, 18);
writeFileSync(join(FUNCTION.projectorFunction, 'bootstrap'), header, { mode: 0o755 });

/** A directory that is removed at the end. */
export function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), 'cdk-'));
  process.on('exit', () => rmSync(directory, { recursive: true }));
  return directory;
}

export const text = (path: string) => readFileSync(`${REPOSITORY}/${path}`, 'utf8');

export interface Resource {
  readonly Type: string;
  readonly Properties: any;
  readonly DeletionPolicy?: string;
  readonly DependsOn?: string[];
}

export class Synthesised {
  readonly stack: OrderService;
  readonly template: Template;
  readonly json: { Resources: Record<string, Resource>; Outputs: Record<string, { Value: unknown }> };

  constructor(options: Record<string, string>) {
    const { context } = JSON.parse(text('deploy/aws/cdk.json'));
    const app = new App({ context: { ...context, ...options } });
    const read = readOptions(app.node);
    this.stack = new OrderService(app, read.name, read);
    this.template = Template.fromStack(this.stack);
    this.json = this.template.toJSON() as typeof this.json;
  }

  all(type: string): [string, Resource][] {
    return Object.entries(this.json.Resources).filter(([, resource]) => resource.Type === type);
  }

  one(type: string, part = ''): Resource {
    const found = this.all(type).filter(([id]) => id.includes(part));
    if (found.length !== 1) throw new Error(`there are ${found.length} ${type} with ${part} in their ids`);
    return found[0][1];
  }

  container(name: string, task = ''): Container {
    const tasks = this.all('AWS::ECS::TaskDefinition').filter(([id]) => id.includes(task));
    const containers: Container[] = tasks.flatMap(([, task]) => task.Properties.ContainerDefinitions);
    const found = containers.find((container) => container.Name === name);
    if (found === undefined) throw new Error(`there is no container ${name}`);
    return found;
  }
}

export interface Container {
  readonly Name: string;
  readonly Image: unknown;
  readonly Command: string[];
  readonly Environment?: { Name: string; Value: unknown }[];
  readonly Secrets?: { Name: string; ValueFrom: unknown }[];
  readonly PortMappings?: { ContainerPort: number }[];
  readonly StartTimeout?: number;
  readonly StopTimeout?: number;
  readonly Essential: boolean;
  readonly DependsOn?: { Condition: string; ContainerName: string }[];
  readonly ReadonlyRootFilesystem: boolean;
}

export function environment(container: Container): Record<string, unknown> {
  return Object.fromEntries((container.Environment ?? []).map(({ Name, Value }) => [Name, Value]));
}

export function variables(container: Container): string[] {
  return [...(container.Environment ?? []), ...(container.Secrets ?? [])].map(({ Name }) => Name).sort();
}

/** The actions that a role may take, by resource. */
export function rights(of: Synthesised, role: string): string[] {
  const policies = of.all('AWS::IAM::Policy').filter(([, policy]) => policy.Properties.Roles.some((found: any) => found.Ref.startsWith(role)));
  const statements = policies.flatMap(([, policy]) => policy.Properties.PolicyDocument.Statement);
  return statements.flatMap((statement: any) => {
    assert(statement.Effect === 'Allow' || statement.Condition !== undefined);
    const resource = /DeadLetters|QueuesQueue|TasksMetrics|TasksLog|ReadModelPassword|rds-db|\*/.exec(JSON.stringify(statement.Resource))?.[0];
    return [statement.Action].flat().map((action) => `${statement.Effect === 'Deny' ? 'not ' : ''}${action} ${resource}`);
  }).sort();
}

/** Who reaches which port of a security group. */
export function ingress(of: Synthesised, group: string): string[] {
  const [id, { Properties }] = of.all('AWS::EC2::SecurityGroup').find(([id]) => id.startsWith(group))!;
  const separate = of.all('AWS::EC2::SecurityGroupIngress').map(([, rule]) => rule.Properties);
  const rules = [...(Properties.SecurityGroupIngress ?? []), ...separate.filter((rule) => rule.GroupId['Fn::GetAtt'][0] === id)];
  return rules.map((rule) => {
    const from = rule.CidrIp ?? rule.SourceSecurityGroupId['Fn::GetAtt'][0].split('SecurityGroup')[0];
    return `${from} ${typeof rule.FromPort === 'number' ? rule.FromPort : 'of the store'}`;
  }).sort();
}
