// How a task logs in to the database: with the password of the secret, or with tokens of IAM. A token is valid for 15 minutes, so a
// container beside the program writes a new one into DATABASE_PASSWORD_FILE every ten.

import * as ecs from 'aws-cdk-lib/aws-ecs';
import { Duration } from 'aws-cdk-lib';
import type { Database } from './database.js';
import type { Options } from './options.js';

/** The user that logs in with tokens. docs/deploy-aws.md has the SQL that creates it. */
export const IAM_USER = 'orders_iam';
const DIRECTORY = '/database';
const IMAGE = 'public.ecr.aws/aws-cli/aws-cli:2.31.0';
// A token replaces the one before in one step, and only if it was created.
const RENEW = `while :; do
  aws rds generate-db-auth-token --hostname "$PGHOST" --port "$PGPORT" --username "$PGUSER" >${DIRECTORY}/new &&
    mv ${DIRECTORY}/new ${DIRECTORY}/password && sleep 600 || sleep 10
done`;

export class DatabaseLogin {
  readonly environment: Record<string, string>;
  readonly secrets: Record<string, ecs.Secret>;
  private readonly tokens?: ecs.ContainerDefinition;

  constructor(task: ecs.FargateTaskDefinition, database: Database, logging: ecs.LogDriver, options: Options) {
    this.environment = { DATABASE_URL: database.url };
    this.secrets = database.address();
    if (options.databaseLogin === 'password') {
      this.secrets = { ...this.secrets, PGUSER: database.secret('username'), PGPASSWORD: database.secret('password') };
      return;
    }
    this.environment = { ...this.environment, PGUSER: IAM_USER, DATABASE_PASSWORD_FILE: `${DIRECTORY}/password` };
    task.addVolume({ name: 'database' });
    this.tokens = task.addContainer('database-token', {
      image: ecs.ContainerImage.fromRegistry(IMAGE),
      entryPoint: ['sh', '-c'],
      command: [RENEW],
      environment: { PGUSER: IAM_USER, HOME: DIRECTORY },
      secrets: this.secrets,
      healthCheck: { command: ['CMD', 'test', '-s', `${DIRECTORY}/password`], interval: Duration.seconds(5), retries: 10 },
      // Passes SIGTERM on to the shell.
      linuxParameters: new ecs.LinuxParameters(task, 'DatabaseToken', { initProcessEnabled: true }),
      readonlyRootFilesystem: true,
      logging,
    });
    this.mount(this.tokens, false);
    database.cluster.grantConnect(task.taskRole, IAM_USER);
  }

  /** Lets a container read the token, and starts it when there is one. */
  use(container: ecs.ContainerDefinition): void {
    if (this.tokens === undefined) return;
    this.mount(container, true);
    container.addContainerDependencies({ container: this.tokens, condition: ecs.ContainerDependencyCondition.HEALTHY });
  }

  private mount(container: ecs.ContainerDefinition, readOnly: boolean): void {
    container.addMountPoints({ sourceVolume: 'database', containerPath: DIRECTORY, readOnly });
  }
}
