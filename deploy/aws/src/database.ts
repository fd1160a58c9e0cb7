// The command database: Aurora PostgreSQL Serverless v2, a writer and a reader to which it fails over.

import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as rds from 'aws-cdk-lib/aws-rds';
import { Duration, RemovalPolicy } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { acknowledge } from './findings.js';
import { STORES } from './network.js';
import type { Options } from './options.js';

/** The certificates of RDS in the image (Dockerfile). */
const CERTIFICATES = '/etc/ssl/certs/aws-rds.pem';

export class Database extends Construct {
  readonly cluster: rds.DatabaseCluster;
  /** Its host, port and password are in other variables, where a password may have any characters. */
  readonly url = `postgres:///?sslmode=verify-full&sslrootcert=${CERTIFICATES}`;

  constructor(scope: Construct, id: string, vpc: ec2.Vpc, options: Options) {
    super(scope, id);
    const instance = {
      autoMinorVersionUpgrade: true,
      caCertificate: rds.CaCertificate.RDS_CA_RSA2048_G1,
      enablePerformanceInsights: true,
    };
    this.cluster = new rds.DatabaseCluster(this, 'Cluster', {
      engine: rds.DatabaseClusterEngine.auroraPostgres({ version: rds.AuroraPostgresEngineVersion.VER_17_7 }),
      writer: rds.ClusterInstance.serverlessV2('Writer', instance),
      // A reader that scales with the writer can replace it at once.
      readers: [rds.ClusterInstance.serverlessV2('Reader', { ...instance, scaleWithWriter: true })],
      serverlessV2MinCapacity: options.databaseCapacity.min,
      serverlessV2MaxCapacity: options.databaseCapacity.max,
      vpc,
      vpcSubnets: STORES,
      defaultDatabaseName: 'orders',
      credentials: rds.Credentials.fromGeneratedSecret('orders'),
      iamAuthentication: true,
      // SQL by `aws rds-data`, without a way into the network.
      enableDataApi: true,
      parameters: {
        'rds.force_ssl': '1',
        // Otherwise errors in the log show values, such as e-mail addresses (docs/privacy.md).
        log_error_verbosity: 'terse',
      },
      storageType: options.databaseStorage === 'standard' ? rds.DBClusterStorageType.AURORA : rds.DBClusterStorageType.AURORA_IOPT1,
      storageEncrypted: true,
      backup: { retention: Duration.days(7) },
      copyTagsToSnapshot: true,
      deletionProtection: options.deletionProtection,
      removalPolicy: RemovalPolicy.SNAPSHOT,
    });
    acknowledge(this.cluster, {
      'AwsSolutions-RDS10': 'A deleted cluster leaves a snapshot. The option deletionProtection also refuses to delete it.',
      'AwsSolutions-SMG4': 'Rotation interrupts the apis (docs/deploy-aws.md), so an operator chooses the time. With databaseLogin=iam the programs use no password.',
    });
  }

  /** What programs need to log in, apart from the password. */
  address(): Record<string, ecs.Secret> {
    return { PGHOST: this.secret('host'), PGPORT: this.secret('port'), PGDATABASE: this.secret('dbname') };
  }

  secret(key: string): ecs.Secret {
    return ecs.Secret.fromSecretsManager(this.cluster.secret!, key);
  }
}
