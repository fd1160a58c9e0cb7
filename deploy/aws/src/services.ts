// The programs: the api behind a load balancer, the projector, and a task in which an operator runs commands.

import * as scaling from 'aws-cdk-lib/aws-applicationautoscaling';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import { Duration } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { acknowledge } from './findings.js';
import { PROGRAMS } from './network.js';
import type { Options } from './options.js';
import { IN_FLIGHT } from './projector-function.js';
import type { SignIn } from './sign-in.js';
import type { Stores, Task, Tasks } from './tasks.js';

const API_PORT = 8080;
/** The load balancer notices a task that is shutting down after two checks. */
const HEALTH_INTERVAL = Duration.seconds(5);
const DRAIN_DELAY = Duration.seconds(15);
/** An idle connection is closed by the load balancer (60 s), not by the api, which could lose a request. */
const LOAD_BALANCER_IDLE = Duration.seconds(60);
const IDLE_TIMEOUT = '75s';
/** Messages that wait for each projector: a projector applies as many in less than a second. */
const BACKLOG_PER_TASK = 1000;

export class Services extends Construct {
  readonly cluster: ecs.Cluster;
  readonly loadBalancer: elb.ApplicationLoadBalancer;
  readonly targets: elb.ApplicationTargetGroup;
  readonly api: ecs.FargateService;
  /** Beside a function it only sweeps. */
  readonly projector: ecs.FargateService;
  readonly operator: Task;
  readonly url: string;

  constructor(
    scope: Construct,
    id: string,
    private readonly vpc: ec2.Vpc,
    private readonly tasks: Tasks,
    private readonly stores: Stores,
    signIn: SignIn,
    private readonly options: Options,
  ) {
    super(scope, id);
    // The number of running tasks, by which projectors scale, is a metric of Container Insights.
    this.cluster = new ecs.Cluster(this, 'Cluster', { vpc, containerInsightsV2: ecs.ContainerInsights.ENABLED });

    if (options.projector === 'service') {
      this.projector = this.service('ProjectorService', this.projectorTask());
      this.scaleByBacklog();
    } else {
      const desiredCount = Math.min(1, options.projectorTasks.max);
      this.projector = this.service('ProjectorService', this.sweepTask(), { desiredCount });
    }

    const api = this.apiTask(signIn);
    this.api = this.service('ApiService', api, { healthCheckGracePeriod: Duration.seconds(30) });
    // The order of a release: migration, projectors, apis (docs/upgrading.md).
    this.api.node.addDependency(this.projector);
    this.api
      .autoScaleTaskCount({ minCapacity: options.apiTasks.min, maxCapacity: options.apiTasks.max })
      .scaleOnCpuUtilization('Cpu', { targetUtilizationPercent: 60 });

    this.loadBalancer = this.createLoadBalancer();
    const listener = this.listen(this.loadBalancer);
    this.url = options.domain ? `https://${options.domain}` : `http://${this.loadBalancer.loadBalancerDnsName}`;
    this.targets = listener.addTargets('Api', {
      port: API_PORT,
      protocol: elb.ApplicationProtocol.HTTP,
      targets: [this.api],
      loadBalancingAlgorithmType: elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
      deregistrationDelay: Duration.seconds(30),
      healthCheck: {
        path: '/health/ready',
        interval: HEALTH_INTERVAL,
        timeout: Duration.seconds(4),
        healthyThresholdCount: 2,
        unhealthyThresholdCount: 2,
      },
    });

    this.operator = tasks.create('Operator', {
      name: 'operator',
      command: ['projector', 'verify'],
      environment: this.inFlight(),
      cpu: 512,
      memory: 1024,
      isService: false,
    });
    stores.queues.grantOperate(this.operator.definition.taskRole);
  }

  private apiTask(signIn: SignIn): Task {
    const task = this.tasks.create('Api', {
      name: 'api',
      command: ['api'],
      environment: {
        LISTEN_ADDR: `0.0.0.0:${API_PORT}`,
        TRUSTED_PROXIES: '1',
        IDLE_TIMEOUT,
        DRAIN_DELAY: `${DRAIN_DELAY.toSeconds()}s`,
        ...signIn.environment,
      },
      secrets: signIn.secrets,
      settings: this.options.apiSettings,
      image: this.options.apiImage,
      cpu: 1024,
      memory: 2048,
      port: API_PORT,
      isService: true,
    });
    this.stores.queues.grantPublish(task.definition.taskRole);
    if (this.options.apiDeadLetters) this.stores.queues.grantDeadLetters(task.definition.taskRole);
    return task;
  }

  private projectorTask(): Task {
    const task = this.tasks.create('Projector', {
      name: 'projector',
      command: ['projector'],
      settings: this.options.projectorSettings,
      image: this.options.projectorImage,
      cpu: 512,
      memory: 1024,
      isService: true,
    });
    this.stores.queues.grantConsume(task.definition.taskRole);
    if (this.options.collector) this.stores.queues.grantCountDeadLetters(task.definition.taskRole);
    return task;
  }

  /** What a function does not do: it compares the read model with the database, repairs it, and removes old generations. */
  private sweepTask(): Task {
    return this.tasks.create('Projector', {
      name: 'projector',
      command: ['projector', 'sweep'],
      environment: this.inFlight(),
      settings: this.options.projectorSettings,
      image: this.options.projectorImage,
      cpu: 256,
      memory: 1024,
      isService: true,
    });
  }

  /** A function gets messages again later than a projector does. */
  private inFlight(): Record<string, string> {
    return this.options.projector === 'lambda' ? { IN_FLIGHT } : {};
  }

  private service(id: string, task: Task, more: Pick<ecs.FargateServiceProps, 'desiredCount' | 'healthCheckGracePeriod'> = {}): ecs.FargateService {
    const service = new ecs.FargateService(this, id, {
      cluster: this.cluster,
      taskDefinition: task.definition,
      securityGroups: [task.securityGroup],
      vpcSubnets: PROGRAMS,
      // Without a desired number a deployment keeps what scaling has chosen.
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      circuitBreaker: { rollback: true },
      ...more,
    });
    // Tasks start when they can reach the internet for their image and their secrets, and when their stores run. Otherwise the first deployment may fail.
    const { internetConnectivityEstablished } = this.vpc.selectSubnets(PROGRAMS);
    service.node.addDependency(internetConnectivityEstablished, this.stores.database.cluster, this.stores.readModel.group, task.definition);
    return service;
  }

  /** Target tracking of the messages per task. The CDK has no construct for a metric that is computed. */
  private scaleByBacklog(): void {
    const { min, max } = this.options.projectorTasks;
    const target = new scaling.ScalableTarget(this, 'Projectors', {
      serviceNamespace: scaling.ServiceNamespace.ECS,
      resourceId: `service/${this.cluster.clusterName}/${this.projector.serviceName}`,
      scalableDimension: 'ecs:service:DesiredCount',
      minCapacity: min,
      maxCapacity: max,
    });
    const query = (metric: cloudwatch.Metric) => ({
      metric: {
        namespace: metric.namespace,
        metricName: metric.metricName,
        dimensions: Object.entries(metric.dimensions ?? {}).map(([name, value]) => ({ name, value: String(value) })),
      },
      stat: metric.statistic,
    });
    const messages = this.stores.queues.queue.metricApproximateNumberOfMessagesVisible({ statistic: 'Average' });
    new scaling.CfnScalingPolicy(this, 'BacklogPerTask', {
      policyName: 'BacklogPerTask',
      policyType: 'TargetTrackingScaling',
      scalingTargetId: target.scalableTargetId,
      targetTrackingScalingPolicyConfiguration: {
        targetValue: BACKLOG_PER_TASK,
        scaleOutCooldown: 60,
        scaleInCooldown: 300,
        customizedMetricSpecification: {
          metrics: [
            { id: 'messages', metricStat: query(messages), returnData: false },
            { id: 'tasks', metricStat: query(this.runningTasks(this.projector)), returnData: false },
            { id: 'backlog', expression: 'messages / tasks', returnData: true },
          ],
        },
      },
    });
  }

  runningTasks(service: ecs.FargateService): cloudwatch.Metric {
    return new cloudwatch.Metric({
      namespace: 'ECS/ContainerInsights',
      metricName: 'RunningTaskCount',
      dimensionsMap: { ClusterName: this.cluster.clusterName, ServiceName: service.serviceName },
      statistic: 'Average',
      period: Duration.minutes(1),
    });
  }

  private createLoadBalancer(): elb.ApplicationLoadBalancer {
    const loadBalancer = new elb.ApplicationLoadBalancer(this, 'LoadBalancer', {
      vpc: this.vpc,
      internetFacing: true,
      dropInvalidHeaderFields: true,
      idleTimeout: LOAD_BALANCER_IDLE,
      deletionProtection: this.options.deletionProtection,
    });
    acknowledge(loadBalancer, {
      'AwsSolutions-ELB2': 'The api logs each operation, without addresses of callers. A log of the load balancer would have them.',
      'AwsSolutions-EC23': 'With a certificate the api is public, unless the option allowFrom says otherwise.',
    });
    return loadBalancer;
  }

  /**
   * HTTPS if there is a certificate: then nothing listens on port 80, where a client would send its token without encryption.
   * Only the addresses of allowFrom reach the load balancer.
   */
  private listen(loadBalancer: elb.ApplicationLoadBalancer): elb.ApplicationListener {
    const { certificate, allowFrom } = this.options;
    const [port, protocol] = certificate ? [443, elb.ApplicationProtocol.HTTPS] : [80, elb.ApplicationProtocol.HTTP];
    for (const addresses of allowFrom) loadBalancer.connections.allowFrom(ec2.Peer.ipv4(addresses), ec2.Port.tcp(port), 'callers');
    return loadBalancer.addListener('Listener', {
      port,
      protocol,
      open: false,
      ...(certificate && { certificates: [elb.ListenerCertificate.fromArn(certificate)], sslPolicy: elb.SslPolicy.RECOMMENDED_TLS }),
    });
  }
}
