// What runs together: a program, the migration before it, and containers that serve it.

import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Aws, Duration, RemovalPolicy } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { addCollector, collectorSettings } from './collector.js';
import { DatabaseLogin } from './database-login.js';
import type { Database } from './database.js';
import { acknowledge } from './findings.js';
import { ProgramImage } from './image.js';
import { OptionError, type Options } from './options.js';
import type { Queues } from './queues.js';
import type { ReadModel } from './read-model.js';

export interface Program {
  readonly name: string;
  readonly command: string[];
  readonly environment?: Record<string, string>;
  readonly secrets?: Record<string, ecs.Secret>;
  /** Settings from the options. They must not replace what the stack sets. */
  readonly settings?: Record<string, string>;
  readonly cpu: number;
  readonly memory: number;
  readonly port?: number;
  /** Another image than that of the release. */
  readonly image?: string;
  /** Whether the migration runs first, and a collector runs beside it. An operator decides himself what runs. */
  readonly isService: boolean;
}

export interface Stores {
  readonly database: Database;
  readonly readModel: ReadModel;
  readonly queues: Queues;
}

/** Makes tasks of one image. */
export class Tasks extends Construct {
  readonly log: logs.LogGroup;
  private readonly metrics?: logs.LogGroup;

  constructor(
    scope: Construct,
    id: string,
    private readonly vpc: ec2.Vpc,
    private readonly image: ProgramImage,
    private readonly stores: Stores,
    private readonly options: Options,
  ) {
    super(scope, id);
    const settings = { retention: logs.RetentionDays.ONE_MONTH, removalPolicy: RemovalPolicy.DESTROY };
    this.log = new logs.LogGroup(this, 'Log', settings);
    if (options.collector) this.metrics = new logs.LogGroup(this, 'Metrics', settings);
  }

  create(id: string, program: Program): Task {
    const { database, readModel, queues } = this.stores;
    const task = new Task(this, id, this.vpc, program, this.options);
    const logging = (container: string) => ecs.LogDrivers.awsLogs({ logGroup: this.log, streamPrefix: container });
    const login = new DatabaseLogin(task.definition, database, logging('database-token'), this.options);
    const secrets = { ...login.secrets, ...readModel.secrets, ...program.secrets };
    const environment: Record<string, string> = {
      ...login.environment,
      ...readModel.environment,
      ...program.environment,
      AWS_REGION: Aws.REGION,
      QUEUE_URL: queues.queue.queueUrl,
      CURRENCY: this.options.currency,
      LOG_FORMAT: 'json',
      ...(this.metrics && program.isService ? collectorSettings(program.name) : {}),
    };
    refuseTaken(program.name, program.settings ?? {}, { ...environment, ...secrets });

    const image = program.image === undefined ? this.image : new ProgramImage(task, 'Image', { ...this.options, image: program.image });
    const container = task.definition.addContainer(program.name, {
      image: image.container,
      readonlyRootFilesystem: true,
      logging: logging(program.name),
      command: program.command,
      environment: { ...environment, ...program.settings },
      secrets,
      portMappings: program.port === undefined ? [] : [{ containerPort: program.port }],
      // Longer than a program takes to finish its work. The default of ECS is 30 s.
      stopTimeout: Duration.seconds(90),
    });
    // The one that gets requests.
    task.definition.defaultContainer = container;
    login.use(container);
    if (program.isService) {
      const migration = task.definition.addContainer('migration', {
        // Always that of the release: an older one refuses a database with migrations that it does not know.
        image: this.image.container,
        readonlyRootFilesystem: true,
        logging: logging('migration'),
        command: ['migration', 'up'],
        environment: login.environment,
        secrets: login.secrets,
        // It ends before the program starts. Concurrent ones wait for each other. Fargate limits `startTimeout` to two minutes, so it has none.
        essential: false,
      });
      login.use(migration);
      container.addContainerDependencies({ container: migration, condition: ecs.ContainerDependencyCondition.SUCCESS });
    }
    if (this.metrics && program.isService) addCollector(task.definition, program.name, this.metrics, this.options.name, logging('collector'));

    database.cluster.connections.allowDefaultPortFrom(task, program.name);
    readModel.connections.allowDefaultPortFrom(task, program.name);
    return task;
  }
}

/** Refuses settings from the options that would replace variables of the stack. */
export function refuseTaken(program: string, settings: Record<string, string>, variables: object): void {
  const taken = Object.keys(settings).find((name) => name in variables);
  if (taken !== undefined) throw new OptionError(`${taken} of ${program} is set by the stack: remove it from its settings`);
}

/** A task definition with the security group of its tasks. */
export class Task extends Construct implements ec2.IConnectable {
  readonly definition: ecs.FargateTaskDefinition;
  readonly securityGroup: ec2.SecurityGroup;
  readonly connections: ec2.Connections;

  constructor(scope: Construct, id: string, vpc: ec2.Vpc, program: Program, options: Options) {
    super(scope, id);
    this.definition = new ecs.FargateTaskDefinition(this, 'Task', {
      cpu: program.cpu,
      memoryLimitMiB: program.memory,
      runtimePlatform: {
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
        cpuArchitecture: options.architecture === 'arm64' ? ecs.CpuArchitecture.ARM64 : ecs.CpuArchitecture.X86_64,
      },
    });
    acknowledge(this.definition, {
      'AwsSolutions-ECS2': 'Variables hold no secrets: these come from Secrets Manager.',
      'AwsSolutions-IAM5[Resource::*]': 'ecr:GetAuthorizationToken has no resources that a policy could name.',
    });
    this.securityGroup = new ec2.SecurityGroup(this, 'SecurityGroup', { vpc, description: `Tasks of ${program.name}` });
    this.connections = new ec2.Connections({ securityGroups: [this.securityGroup] });
  }
}
