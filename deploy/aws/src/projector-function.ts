// The projector as a Lambda function, which an event source mapping calls with messages of the queue.

import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import type * as logs from 'aws-cdk-lib/aws-logs';
import { Duration } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { acknowledge } from './findings.js';
import { REPOSITORY } from './image.js';
import { PROGRAMS } from './network.js';
import { OptionError, type Options } from './options.js';
import { type Stores, refuseTaken } from './tasks.js';

/** An invocation takes milliseconds, and about six seconds while Redis is unavailable (projector/lambda/src/function.rs). */
const TIME_LIMIT = Duration.seconds(15);
/** AWS asks for six times the time limit. A message that was not applied waits for so long until it is delivered again. */
export const VISIBILITY_TIMEOUT = Duration.seconds(90);
/** The sweep must not repair what is delivered again and then applied (docs/guarantees.md). */
export const IN_FLIGHT = '3m';
/** `make lambda` writes it. */
const BUILT = 'target/projector-lambda';
/** The field e_machine of ELF. */
const MACHINES = { x86_64: 0x3e, arm64: 0xb7 };

/** What Lambda does with network interfaces in the name of a function. */
const INTERFACES = [
  'ec2:AssignPrivateIpAddresses',
  'ec2:CreateNetworkInterface',
  'ec2:DeleteNetworkInterface',
  'ec2:DescribeNetworkInterfaces',
  'ec2:DescribeSubnets',
  'ec2:UnassignPrivateIpAddresses',
];

export class ProjectorFunction extends Construct {
  readonly function: lambda.Function;
  readonly mapping: lambda.EventSourceMapping;

  constructor(scope: Construct, id: string, vpc: ec2.Vpc, { queues, readModel }: Stores, log: logs.LogGroup, options: Options) {
    super(scope, id);
    const environment: Record<string, string> = {
      ...readModel.environment,
      REDIS_PASSWORD_SECRET: readModel.password.secretArn,
      CURRENCY: options.currency,
      LOG_FORMAT: 'json',
    };
    refuseTaken('projector', options.projectorSettings, environment);

    const arm = options.architecture === 'arm64';
    this.function = new lambda.Function(this, 'Function', {
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: arm ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(built(options)),
      memorySize: 512,
      timeout: TIME_LIMIT,
      role: this.role(log),
      vpc,
      vpcSubnets: PROGRAMS,
      environment: { ...environment, ...options.projectorSettings },
      logGroup: log,
      loggingFormat: lambda.LoggingFormat.JSON,
      // Otherwise each invocation adds three lines.
      systemLogLevelV2: lambda.SystemLogLevel.WARN,
    });
    this.denyInterfaces();
    queues.grantTrigger(this.function);
    readModel.password.grantRead(this.function);
    readModel.connections.allowDefaultPortFrom(this.function, 'projector');
    const { internetConnectivityEstablished } = vpc.selectSubnets(PROGRAMS);
    this.function.node.addDependency(internetConnectivityEstablished, readModel.group);

    this.mapping = new lambda.EventSourceMapping(this, 'Messages', {
      target: this.function,
      eventSourceArn: queues.queue.queueArn,
      enabled: options.projectorTasks.max > 0,
      batchSize: 100,
      // The shortest that AWS allows with more than ten messages.
      maxBatchingWindow: Duration.seconds(1),
      reportBatchItemFailures: true,
      // The smallest that AWS allows is two.
      maxConcurrency: Math.max(2, options.projectorTasks.max),
    });
    // The mapping needs the rights of the function.
    this.mapping.node.addDependency(this.function);
  }

  private role(log: logs.LogGroup): iam.Role {
    const role = new iam.Role(this, 'Role', { assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com') });
    log.grantWrite(role);
    role.addToPolicy(new iam.PolicyStatement({ actions: INTERFACES, resources: ['*'] }));
    acknowledge(role, {
      'AwsSolutions-IAM5[Resource::*]': 'Lambda manages the network interfaces of the function; the function itself may not.',
    });
    return role;
  }

  /** https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions */
  private denyInterfaces(): void {
    const statement = new iam.PolicyStatement({
      effect: iam.Effect.DENY,
      actions: INTERFACES,
      resources: ['*'],
      conditions: { ArnEquals: { 'lambda:SourceFunctionArn': this.function.functionArn } },
    });
    // A policy of its own: that of the role is created before the function.
    new iam.Policy(this, 'DenyInterfaces', { roles: [this.function.role!], statements: [statement] });
  }
}

/** The directory with the program, of which the CDK makes the zip. */
function built({ projectorFunction, architecture }: Options): string {
  const directory = projectorFunction === undefined ? join(REPOSITORY, BUILT) : resolve(projectorFunction);
  const program = join(directory, 'bootstrap');
  if (!existsSync(program)) throw new OptionError(`projector=lambda needs ${program}: build it with \`make lambda\``);
  const machine = Buffer.alloc(2);
  const file = openSync(program, 'r');
  readSync(file, machine, 0, 2, 18);
  closeSync(file);
  if (machine.readUInt16LE() !== MACHINES[architecture]) {
    throw new OptionError(`${program} is not built for ${architecture}: build it there, or change the option architecture`);
  }
  return directory;
}
