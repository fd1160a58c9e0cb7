// An emulator of AWS on this machine (ministack), which creates the resources of the template.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Resource } from '../synth.js';
import { freePort, start, temporary, until } from './servers.js';

/** Types that the emulator refuses. The test fails if it refuses another one. */
const REFUSED = [
  'AWS::ApplicationAutoScaling::ScalableTarget',
  'AWS::ApplicationAutoScaling::ScalingPolicy',
  'AWS::EC2::EIP',
  'AWS::EC2::FlowLog',
  'AWS::EC2::NatGateway',
  'AWS::EC2::SecurityGroupEgress',
  'AWS::EC2::SecurityGroupIngress',
];
/** Types of which some resources are left out, too, because they refer to those. */
const DEPENDENT = ['AWS::CloudWatch::Dashboard', 'AWS::EC2::Route'];
/** Alarms of a metric that is computed. */
const isRefused = ({ Type, Properties }: Resource) => REFUSED.includes(Type) || (Type === 'AWS::CloudWatch::Alarm' && Properties.Metrics);

export interface Template {
  Resources: Record<string, Resource & { DependsOn?: string | string[] }>;
  Outputs: Record<string, unknown>;
}

/** Removes what the emulator refuses, and what refers to it. */
export function strip(template: Template): void {
  const resources = template.Resources;
  const gone = new Set(Object.keys(resources).filter((id) => isRefused(resources[id])));
  for (let before = -1; before < gone.size; ) {
    before = gone.size;
    for (const [id, resource] of Object.entries(resources)) {
      if (refersTo(resource.Properties, gone)) gone.add(id);
    }
  }
  for (const id of gone) {
    assert(isRefused(resources[id]) || DEPENDENT.includes(resources[id].Type), `${id} refers to what the emulator refuses`);
    delete resources[id];
  }
  for (const resource of Object.values(resources)) {
    if (resource.DependsOn !== undefined) resource.DependsOn = [resource.DependsOn].flat().filter((id) => !gone.has(id));
  }
}

function refersTo(value: unknown, ids: Set<string>): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { Ref: ref, 'Fn::GetAtt': attribute } = value as { Ref?: string; 'Fn::GetAtt'?: string[] };
  return ids.has(ref ?? '') || ids.has(attribute?.[0] ?? '') || Object.values(value).some((part) => refersTo(part, ids));
}

export class Emulator {
  private constructor(readonly url: string) {}

  static async start(): Promise<Emulator> {
    const port = await freePort();
    // It listens on all interfaces by default, and unpacks functions into a temporary directory. A function ends with it.
    const variables = { BIND_HOST: '127.0.0.1', GATEWAY_PORT: String(port), IOT_MTLS_ENABLED: '0', SFTP_ENABLED: '0', TMPDIR: temporary() };
    start('ministack', [], variables);
    const emulator = new Emulator(`http://127.0.0.1:${port}`);
    await until('the emulator runs', async () => (await fetch(emulator.url)).status > 0);
    return emulator;
  }

  /** Calls a service with the query protocol. */
  async query(service: string, action: string, parameters: Record<string, string>): Promise<string> {
    const body = new URLSearchParams({ Action: action, ...parameters });
    return await this.send(service, this.url, 'POST', body);
  }

  /** Calls a service with the JSON protocol. */
  async json(service: string, target: string, input: object): Promise<any> {
    const headers = { 'Content-Type': 'application/x-amz-json-1.1', 'X-Amz-Target': target };
    return JSON.parse(await this.send(service, this.url, 'POST', JSON.stringify(input), headers));
  }

  /** Calls a service with the REST protocol. */
  async rest(service: string, method: string, path: string, input?: object): Promise<any> {
    return JSON.parse(await this.send(service, this.url + path, method, input && JSON.stringify(input)));
  }

  /** Uploads the code of each function, as `cdk deploy` does: the directory `asset.HASH` as HASH.zip. */
  async uploadCode(template: Template, directory: string): Promise<void> {
    for (const { Type, Properties } of Object.values(template.Resources)) {
      if (Type !== 'AWS::Lambda::Function') continue;
      const { S3Bucket, S3Key } = Properties.Code;
      const bucket = S3Bucket['Fn::Sub'].replace('${AWS::AccountId}', '000000000000').replace('${AWS::Region}', 'us-east-1');
      const zip = join(temporary(), S3Key);
      execFileSync('python3', ['-m', 'zipfile', '-c', zip, 'bootstrap'], { cwd: join(directory, `asset.${S3Key.replace('.zip', '')}`) });
      await this.send('s3', `${this.url}/${bucket}`, 'PUT');
      await this.send('s3', `${this.url}/${bucket}/${S3Key}`, 'PUT', readFileSync(zip));
    }
  }

  /** Creates a stack and returns its outputs. */
  async create(name: string, template: Template): Promise<Record<string, string>> {
    // `cdk bootstrap` writes it.
    await this.json('ssm', 'AmazonSSM.PutParameter', { Name: '/cdk-bootstrap/hnb659fds/version', Value: '30', Type: 'String' });
    // A larger template than 51,200 bytes must be in S3.
    const bucket = `${this.url}/templates`;
    await this.send('s3', bucket, 'PUT');
    await this.send('s3', `${bucket}/stack`, 'PUT', JSON.stringify(template));
    await this.query('cloudformation', 'CreateStack', { StackName: name, TemplateURL: `${bucket}/stack` });
    let stack = '';
    await until('the stack is created', async () => {
      stack = await this.query('cloudformation', 'DescribeStacks', { StackName: name });
      return !stack.includes('_IN_PROGRESS');
    });
    if (!stack.includes('>CREATE_COMPLETE<')) {
      const events = await this.query('cloudformation', 'DescribeStackEvents', { StackName: name });
      throw new Error([...events.matchAll(/<ResourceStatusReason>([^<]+)</g)].map(([, reason]) => unescape(reason)).join('\n'));
    }
    const outputs = stack.matchAll(/<OutputKey>(\w+)<\/OutputKey>\s*<OutputValue>([^<]*)<\/OutputValue>/g);
    return Object.fromEntries([...outputs].map(([, key, value]) => [key, unescape(value)]));
  }

  private async send(service: string, url: string, method: string, body?: string | URLSearchParams | Buffer<ArrayBuffer>, headers = {}): Promise<string> {
    // Which service is meant is a part of the signature. Nobody checks the rest.
    const credential = `AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/${service}/aws4_request, SignedHeaders=host, Signature=any`;
    const response = await fetch(url, { method, body, headers: { ...headers, Authorization: credential } });
    const text = await response.text();
    if (!response.ok) throw new Error(`${service}: ${text}`);
    return text;
  }
}

function unescape(xml: string): string {
  const entities: Record<string, string> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' };
  return xml.replace(/&(\w+|#\d+|#x[0-9a-f]+);/gi, (_, entity: string) =>
    entity.startsWith('#') ? String.fromCodePoint(Number(entity.slice(1).replace('x', '0x'))) : entities[entity]);
}
