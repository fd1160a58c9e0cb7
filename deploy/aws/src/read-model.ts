// Redis for the read model: ElastiCache for Valkey, a primary and a replica to which it fails over.

import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as elasticache from 'aws-cdk-lib/aws-elasticache';
import * as secretsmanager from 'aws-cdk-lib/aws-secretsmanager';
import { Stack } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { acknowledge } from './findings.js';
import { STORES } from './network.js';
import type { Options } from './options.js';

const USER = 'orders';
const PORT = 6379;
/** All commands on the keys and the channel of the service, except dangerous ones; of these the service uses INFO and ROLE. */
const ACCESS = 'on ~orders:* &orders:* +@all -@dangerous +info +role';

export class ReadModel extends Construct implements ec2.IConnectable {
  readonly connections: ec2.Connections;
  readonly group: elasticache.CfnReplicationGroup;
  readonly environment: Record<string, string>;
  readonly secrets: Record<string, ecs.Secret>;
  readonly password: secretsmanager.Secret;

  constructor(scope: Construct, id: string, vpc: ec2.Vpc, options: Options) {
    super(scope, id);
    const securityGroup = new ec2.SecurityGroup(this, 'SecurityGroup', { vpc, description: 'Read model', allowAllOutbound: false });
    this.connections = new ec2.Connections({ securityGroups: [securityGroup], defaultPort: ec2.Port.tcp(PORT) });

    this.password = new secretsmanager.Secret(this, 'Password', {
      description: `Password of the user ${USER} of the read model`,
      generateSecretString: { passwordLength: 64, excludePunctuation: true },
    });
    acknowledge(this.password, {
      'AwsSolutions-SMG4': 'An operator changes it in steps that disturb no program (docs/deploy-aws.md).',
    });
    this.group = this.createGroup(vpc, securityGroup, this.createUsers(this.password), options);
    this.environment = {
      REDIS_URL: `rediss://${this.group.attrPrimaryEndPointAddress}:${this.group.attrPrimaryEndPointPort}`,
      REDIS_USERNAME: USER,
    };
    this.secrets = { REDIS_PASSWORD: ecs.Secret.fromSecretsManager(this.password) };
  }

  private createUsers(password: secretsmanager.Secret): elasticache.CfnUserGroup {
    // Unique in an account and a region.
    const id = `${Stack.of(this).stackName.toLowerCase()}-read-model`;
    const user = new elasticache.CfnUser(this, 'User', {
      engine: 'valkey',
      userId: id,
      userName: USER,
      accessString: ACCESS,
      // A reference that CloudFormation resolves: the template has no password.
      passwords: [password.secretValue.unsafeUnwrap()],
    });
    return new elasticache.CfnUserGroup(this, 'Users', { engine: 'valkey', userGroupId: id, userIds: [user.ref] });
  }

  private createGroup(vpc: ec2.Vpc, securityGroup: ec2.SecurityGroup, users: elasticache.CfnUserGroup, options: Options) {
    const subnets = new elasticache.CfnSubnetGroup(this, 'Subnets', {
      description: 'Read model',
      subnetIds: vpc.selectSubnets(STORES).subnetIds,
    });
    const parameters = new elasticache.CfnParameterGroup(this, 'Parameters', {
      cacheParameterGroupFamily: 'valkey8',
      description: 'The read model must not lose keys',
      properties: { 'maxmemory-policy': 'noeviction' },
    });
    const group = new elasticache.CfnReplicationGroup(this, 'Group', {
      replicationGroupDescription: 'Read model of the order service',
      engine: 'valkey',
      engineVersion: '8.0',
      cacheNodeType: options.cacheNode,
      port: PORT,
      numNodeGroups: 1,
      replicasPerNodeGroup: 1,
      automaticFailoverEnabled: true,
      multiAzEnabled: true,
      transitEncryptionEnabled: true,
      transitEncryptionMode: 'required',
      atRestEncryptionEnabled: true,
      userGroupIds: [users.ref],
      cacheSubnetGroupName: subnets.ref,
      cacheParameterGroupName: parameters.ref,
      securityGroupIds: [securityGroup.securityGroupId],
      // Everything can be rebuilt from the database, which is newer than a snapshot.
      snapshotRetentionLimit: 0,
    });
    acknowledge(group, {
      'AwsSolutions-AEC6': 'Users with passwords (RBAC) replace the token of AUTH.',
    });
    return group;
  }
}
