// The stack: what it consists of, and what it prints.

import { CfnOutput, Fn, Stack } from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import { addBudget } from './budget.js';
import { Database } from './database.js';
import { ProgramImage } from './image.js';
import { Network, PROGRAMS } from './network.js';
import { Observability } from './observability.js';
import type { Options } from './options.js';
import { ProjectorFunction, VISIBILITY_TIMEOUT } from './projector-function.js';
import { Queues } from './queues.js';
import { ReadModel } from './read-model.js';
import { Services } from './services.js';
import { CognitoSignIn, SecretSignIn, settingsSignIn } from './sign-in.js';
import { Tasks } from './tasks.js';

/** Creates a product, registers a client, and places its first order. In a new database both have the id 1. */
const FIRST_ORDER = `mutation {
  createProduct(input: {name: "Notebook", price: "12.50", sku: "notebook"}) { product { id } userErrors { message } }
  registerClient(input: {name: "Ada", email: "ada@example.com"}) { client { id } userErrors { message } }
  placeOrder(input: {clientId: "1", items: [{productId: "1", quantity: 2}], idempotencyKey: "first"}) {
    order { id total { amount currencyCode } } clientVersion userErrors { message }
  }
}`;

export class OrderService extends Stack {
  constructor(scope: Construct, id: string, options: Options) {
    super(scope, id, {
      description: 'Order service: api, projector, Aurora, ElastiCache, SQS',
      terminationProtection: options.deletionProtection,
    });
    const isLambda = options.projector === 'lambda';
    const { vpc } = new Network(this, 'Network', options.natGateways);
    const stores = {
      database: new Database(this, 'Database', vpc, options),
      readModel: new ReadModel(this, 'ReadModel', vpc, options),
      queues: new Queues(this, 'Queues', isLambda ? VISIBILITY_TIMEOUT : undefined),
    };
    const image = new ProgramImage(this, 'Image', options);
    const signIn = this.signIn(image, options);
    const tasks = new Tasks(this, 'Tasks', vpc, image, stores, options);
    const projector = isLambda ? new ProjectorFunction(this, 'Projector', vpc, stores, tasks.log, options) : undefined;
    const services = new Services(this, 'Services', vpc, tasks, stores, signIn, options);
    // The order of a release: migration, projectors, apis (docs/upgrading.md).
    if (projector !== undefined) services.api.node.addDependency(projector);
    new Observability(this, 'Observability', stores, services, projector?.function, tasks.log, options);
    if (options.monthlyBudget !== undefined) addBudget(this, options.monthlyBudget, options.alarmEmail!);

    const output = (name: string, value: string, description: string) => new CfnOutput(this, name, { value, description });
    output('Url', services.url, 'The api: /graphql, /health/ready');
    output('LoadBalancer', services.loadBalancer.loadBalancerDnsName, 'The target of the DNS record of the domain');
    output('Token', `TOKEN=$(${signIn.tokenCommand})`, 'Gets a token');
    const body = JSON.stringify({ query: FIRST_ORDER.replace(/\s+/g, ' ') });
    output(
      'FirstOrder',
      `curl ${services.url}/graphql -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '${body}'`,
      'Places the first order',
    );
    const network = {
      subnets: Fn.join(',', vpc.selectSubnets(PROGRAMS).subnetIds),
      group: services.operator.securityGroup.securityGroupId,
    };
    output(
      'Operator',
      `aws ecs run-task --launch-type FARGATE --cluster ${services.cluster.clusterName} ` +
        `--task-definition ${services.operator.definition.family} --network-configuration ` +
        `'awsvpcConfiguration={subnets=[${network.subnets}],securityGroups=[${network.group}]}'`,
      'Runs a command of an operator (docs/operations.md)',
    );
    output('ReleaseImage', image.uri, 'The image of this release, for apiImage and projectorImage');
    output('ServiceNames', [services.projector, services.api].map((service) => service.serviceName).join(' '), 'The services, for aws ecs');
    if (projector !== undefined) {
      output('Function', projector.function.functionName, 'The projector, for aws lambda');
      output('EventSourceMapping', projector.mapping.eventSourceMappingId, 'Calls the projector, for aws lambda update-event-source-mapping');
    }
    output('Log', `aws logs tail ${tasks.log.logGroupName} --follow`, 'Shows what the programs log');
    output('Queue', stores.queues.queue.queueUrl, 'The queue');
    output('DatabaseCluster', stores.database.cluster.clusterArn, 'For aws rds-data --resource-arn');
    output('DatabaseSecret', stores.database.cluster.secret!.secretArn, 'For aws rds-data --secret-arn');
  }

  private signIn(image: ProgramImage, options: Options) {
    switch (options.signIn) {
      case 'secret':
        return new SecretSignIn(this, 'SignIn', image.uri);
      case 'cognito':
        return new CognitoSignIn(this, 'SignIn', options.deletionProtection);
      case 'settings':
        return settingsSignIn;
    }
  }
}
