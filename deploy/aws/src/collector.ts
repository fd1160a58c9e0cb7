// The collector beside a program: the AWS distribution of the OpenTelemetry Collector (ADOT), which sends metrics to CloudWatch and
// traces to X-Ray. It gets both inside the task, so no port is open to the network.

import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Aws } from 'aws-cdk-lib';
import type * as logs from 'aws-cdk-lib/aws-logs';
import { acknowledge } from './findings.js';

const IMAGE = 'public.ecr.aws/aws-observability/aws-otel-collector:v0.43.1';
const ADDRESS = '127.0.0.1:4318';

/** The settings of a program with a collector. */
export function collectorSettings(program: string): Record<string, string> {
  return {
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://${ADDRESS}`,
    // Becomes the dimension of the metrics.
    OTEL_RESOURCE_ATTRIBUTES: `program=${program}`,
    // CloudWatch adds up what it gets. Of a histogram it gets the largest value, which only this kind has for each minute.
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: 'delta',
    // The caller's decision to record its trace does not count (docs/tracing.md).
    OTEL_TRACES_SAMPLER: 'traceidratio',
    OTEL_TRACES_SAMPLER_ARG: '0.01',
  };
}

/** The metrics of docs/metrics.md that alarms and graphs use, by their dimensions besides the program. Each series costs money. */
export const METRICS: { labels: string[]; names: string[] }[] = [
  {
    labels: [],
    names: [
      'orders_outbox_oldest_age_seconds',
      'orders_outbox_pending_events',
      'orders_projection_lag_seconds',
      'orders_sweep_differences_total',
    ],
  },
  { labels: ['outcome'], names: ['orders_operations_total'] },
  { labels: ['state'], names: ['orders_projector_state'] },
];

export function addCollector(task: ecs.FargateTaskDefinition, program: string, metrics: logs.LogGroup, namespace: string, logging: ecs.LogDriver): void {
  task.addContainer('collector', {
    image: ecs.ContainerImage.fromRegistry(IMAGE),
    // A program works without its collector, which starts again alone.
    essential: false,
    enableRestartPolicy: true,
    environment: { AOT_CONFIG_CONTENT: JSON.stringify(configuration(program, metrics.logGroupName, namespace)) },
    memoryLimitMiB: 256,
    readonlyRootFilesystem: true,
    logging,
  });
  metrics.grantWrite(task.taskRole);
  metrics.grant(task.taskRole, 'logs:DescribeLogStreams');
  task.addToTaskRolePolicy(new iam.PolicyStatement({ actions: ['xray:PutTraceSegments'], resources: ['*'] }));
  acknowledge(task.taskRole, { 'AwsSolutions-IAM5[Resource::*]': 'X-Ray has no resources that a policy could name.' });
}

/** JSON is YAML, which the collector reads. */
function configuration(program: string, logGroup: string, namespace: string): object {
  return {
    extensions: { sigv4auth: { region: Aws.REGION, service: 'xray' } },
    receivers: { otlp: { protocols: { http: { endpoint: ADDRESS } } } },
    processors: { memory_limiter: { check_interval: '1s', limit_mib: 128 }, batch: {} },
    exporters: {
      otlphttp: { traces_endpoint: `https://xray.${Aws.REGION}.${Aws.URL_SUFFIX}/v1/traces`, auth: { authenticator: 'sigv4auth' } },
      awsemf: {
        namespace,
        log_group_name: logGroup,
        log_stream_name: `${program}-{TaskId}`,
        dimension_rollup_option: 'NoDimensionRollup',
        // The attribute `program` describes the process.
        resource_to_telemetry_conversion: { enabled: true },
        metric_declarations: METRICS.map(({ labels, names }) => ({
          dimensions: [['program', ...labels]],
          metric_name_selectors: [`^(${names.join('|')})$`],
        })),
      },
    },
    service: {
      extensions: ['sigv4auth'],
      pipelines: {
        traces: { receivers: ['otlp'], processors: ['memory_limiter', 'batch'], exporters: ['otlphttp'] },
        metrics: { receivers: ['otlp'], processors: ['memory_limiter', 'batch'], exporters: ['awsemf'] },
      },
    },
  };
}
