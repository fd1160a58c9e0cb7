// That the containers start our programs with settings that they accept.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CALLER, FULL, FUNCTION, Synthesised, environment, text, variables } from './synth.js';

const secret = new Synthesised(CALLER);
const full = new Synthesised(FULL);
const withFunction = new Synthesised(FUNCTION);

/** The settings of a program, as `--help` prints them: `make check` compares docs/configuration.md with it. */
function settings(program: string): string[] {
  const rows = [...text('docs/configuration.md').matchAll(/^\| `([A-Z_]+)` \| ([a-z, -]+) \|/gm)];
  return rows.filter(([, , programs]) => programs.split(', ').includes(program)).map(([, name]) => name);
}
/** Variables of libraries: of tracing, PostgreSQL and the AWS SDK, and of OpenTelemetry. */
const OF_LIBRARIES = ['RUST_LOG', 'PGHOST', 'PGPORT', 'PGUSER', 'PGPASSWORD', 'PGDATABASE', 'AWS_REGION'];
const OF_TELEMETRY = [...(text('docs/tracing.md') + text('docs/metrics.md')).matchAll(/^\| `(OTEL_[A-Z_]+)`/gm)].map(([, name]) => name);

for (const [name, program] of [['api', 'api'], ['projector', 'projector'], ['operator', 'projector'], ['migration', 'migration']]) {
  test(`${name} has only variables that ${program} reads`, () => {
    const known = new Set([...settings(program), ...OF_LIBRARIES, ...OF_TELEMETRY]);
    assert(known.has('DATABASE_URL'));
    for (const stack of [secret, full, withFunction]) {
      assert.deepEqual(variables(stack.container(name)).filter((variable) => !known.has(variable)), []);
    }
  });
}

test('the function has only variables that projector-lambda reads, and none with a secret', () => {
  const known = settings('projector-lambda');
  const { Variables } = withFunction.one('AWS::Lambda::Function').Properties.Environment;
  assert.deepEqual(Object.keys(Variables).sort(), ['CURRENCY', 'LOG_FORMAT', 'REDIS_PASSWORD_SECRET', 'REDIS_URL', 'REDIS_USERNAME']);
  for (const name of Object.keys(Variables)) assert(known.includes(name), name);
  const [password] = withFunction.all('AWS::SecretsManager::Secret').find(([id]) => id.startsWith('ReadModelPassword'))!;
  assert.deepEqual(Variables.REDIS_PASSWORD_SECRET, { Ref: password });
  assert.match(JSON.stringify(Variables.REDIS_URL), /rediss:\/\//);
});

test('beside the function a task compares and repairs, but receives nothing', () => {
  const container = withFunction.container('projector');
  assert.deepEqual(container.Command, ['projector', 'sweep']);
  assert.match(text('projector/src/cli/mod.rs'), /^ {4}Sweep\(/m);
  assert.equal(withFunction.one('AWS::ECS::Service', 'ProjectorService').Properties.DesiredCount, 1);
  assert.equal(withFunction.all('AWS::ApplicationAutoScaling::ScalingPolicy').length, 1, 'only the api scales');
});

test('each program has the settings that it requires', () => {
  const database = ['DATABASE_URL', 'PGDATABASE', 'PGHOST', 'PGPASSWORD', 'PGPORT', 'PGUSER'];
  const common = [...database, 'AWS_REGION', 'CURRENCY', 'LOG_FORMAT', 'QUEUE_URL', 'REDIS_PASSWORD', 'REDIS_URL', 'REDIS_USERNAME'];
  const api = [...common, 'DRAIN_DELAY', 'IDLE_TIMEOUT', 'JWT_SECRET', 'LISTEN_ADDR', 'TRUSTED_PROXIES'];
  assert.deepEqual(variables(secret.container('api')), api.sort());
  assert.deepEqual(variables(secret.container('projector')), [...common].sort());
  assert.deepEqual(variables(secret.container('operator')), common.sort());
  assert.deepEqual(variables(secret.container('migration')), database.sort());
});

test('commands are programs with subcommands that exist', () => {
  for (const [name, command] of Object.entries({
    api: ['api'],
    projector: ['projector'],
    migration: ['migration', 'up'],
    operator: ['projector', 'verify'],
  })) {
    assert.deepEqual(secret.container(name).Command, command);
  }
  assert.match(text('scripts/build'), /for program in api projector migration /);
  assert.match(text('migration/src/main.rs'), /^ {4}Up,$/m);
});

test('secrets are keys of Secrets Manager, and no variable holds one', () => {
  const keys = { PGHOST: 'host', PGPORT: 'port', PGUSER: 'username', PGPASSWORD: 'password', PGDATABASE: 'dbname' };
  const attached = secret.all('AWS::SecretsManager::SecretTargetAttachment')[0][0];
  for (const name of ['api', 'projector', 'operator', 'migration']) {
    const secrets = new Map(secret.container(name).Secrets?.map(({ Name, ValueFrom }) => [Name, ValueFrom]));
    for (const [variable, key] of Object.entries(keys)) {
      assert.deepEqual(secrets.get(variable), { 'Fn::Join': ['', [{ Ref: attached }, `:${key}::`]] });
    }
  }
  const { SecretStringTemplate, GenerateStringKey } = secret.one('AWS::SecretsManager::Secret', 'Database').Properties.GenerateSecretString;
  assert.equal(SecretStringTemplate, '{"username":"orders"}');
  assert.equal(GenerateStringKey, 'password');
  assert.doesNotMatch(JSON.stringify(secret.json), /"(PGPASSWORD|REDIS_PASSWORD|JWT_SECRET)","Value"/);
});

test('the database is reached with verified TLS, Redis with TLS', () => {
  for (const name of ['api', 'projector', 'operator', 'migration']) {
    const url = String(environment(secret.container(name)).DATABASE_URL);
    assert.match(url, /^postgres:\/\/\/\?sslmode=verify-full&sslrootcert=(\S+)$/);
    assert(text('Dockerfile').includes(url.split('sslrootcert=')[1]), 'the image has these certificates');
  }
  assert.match(JSON.stringify(environment(secret.container('api')).REDIS_URL), /rediss:\/\//);
  const { Properties } = secret.one('AWS::ElastiCache::ReplicationGroup');
  assert.equal(Properties.TransitEncryptionMode, 'required');
});

test('the migration ends before a program starts', () => {
  for (const name of ['api', 'projector']) {
    assert.deepEqual(secret.container(name).DependsOn, [{ Condition: 'SUCCESS', ContainerName: 'migration' }]);
  }
  const { Essential, StartTimeout } = secret.container('migration');
  // A migration may take longer than the two minutes to which Fargate limits it.
  assert.deepEqual([Essential, StartTimeout], [false, undefined]);
  assert.throws(() => secret.container('migration', 'Operator'));
});

test('with IAM no program has the password, and each waits for a token', () => {
  for (const name of ['api', 'projector', 'operator', 'migration']) {
    const container = full.container(name);
    assert(!variables(container).includes('PGPASSWORD'));
    assert.equal(environment(container).DATABASE_PASSWORD_FILE, '/database/password');
    assert(container.DependsOn?.some((on) => on.ContainerName === 'database-token' && on.Condition === 'HEALTHY'));
  }
});

test('with Cognito the api accepts its tokens only', () => {
  const api = environment(full.container('api'));
  assert.match(JSON.stringify(api.JWT_ISSUER), /https:\/\/cognito-idp\./);
  assert.match(JSON.stringify(api.JWT_JWKS_URL), /\/.well-known\/jwks.json/);
  assert.deepEqual(api.JWT_OAUTH_CLIENTS, { Ref: full.all('AWS::Cognito::UserPoolClient')[0][0] });
  const server = full.one('AWS::Cognito::UserPoolResourceServer').Properties;
  assert.equal(api.JWT_SCOPE_PREFIX, `${server.Identifier}/`);
  const scopes = [...text('api/src/edge/auth/scopes.rs').matchAll(/: &str = "(.+)";/g)].map(([, scope]) => scope);
  assert.deepEqual(server.Scopes.map((scope: { ScopeName: string }) => scope.ScopeName).sort(), scopes.sort());
});

test('apis and projectors may have other images, but the migration is that of the release', () => {
  const older = '123456789012.dkr.ecr.eu-central-1.amazonaws.com/orders:0.1.0';
  const stack = new Synthesised({ ...CALLER, apiImage: older });
  const image = (name: string, task: string) => stack.container(name, task).Image;
  assert.match(JSON.stringify(image('api', 'Api')), /dkr\.ecr.*orders:0\.1\.0/);
  assert.match(JSON.stringify(stack.all('AWS::IAM::Policy').filter(([id]) => id.includes('TasksApi'))), /"ecr:BatchGetImage"/);
  const untagged = new Synthesised({ ...CALLER, apiImage: older.split(':')[0] });
  assert.match(JSON.stringify(untagged.container('api', 'Api').Image), /orders:latest/);
  for (const [name, task] of [['migration', 'Api'], ['projector', 'Projector'], ['operator', 'Operator']]) {
    assert.equal(image(name, task), 'example');
  }
  assert.equal(new Synthesised({ ...CALLER, projectorImage: 'older' }).container('projector').Image, 'older');
});

test('a task that stops finishes its work', () => {
  const seconds = (value: unknown) => Number(/^(\d+)s$/.exec(String(value))?.[1]);
  const { Properties: group } = secret.one('AWS::ElasticLoadBalancingV2::TargetGroup');
  const { Properties: balancer } = secret.one('AWS::ElasticLoadBalancingV2::LoadBalancer');
  const attribute = (of: any, key: string) =>
    Number([...(of.LoadBalancerAttributes ?? []), ...(of.TargetGroupAttributes ?? [])].find(({ Key }) => Key === key).Value);
  const api = environment(secret.container('api'));

  const noticed = group.HealthCheckIntervalSeconds * group.UnhealthyThresholdCount;
  assert(seconds(api.DRAIN_DELAY) > noticed, 'the load balancer notices that a task is shutting down');
  assert(attribute(group, 'deregistration_delay.timeout_seconds') >= seconds(api.DRAIN_DELAY));
  assert(seconds(api.IDLE_TIMEOUT) > attribute(balancer, 'idle_timeout.timeout_seconds'));
  // Each of three stages of the shutdown may take this long, and the last lines of the log some seconds.
  const grace = Number(/const GRACE: Duration = Duration::from_secs\((\d+)\)/.exec(text('api/src/service.rs'))?.[1]);
  assert(secret.container('api').StopTimeout! >= seconds(api.DRAIN_DELAY) + 3 * grace + 5);
  for (const name of ['api', 'projector']) {
    const stop = secret.container(name).StopTimeout!;
    // 120 s is the limit of Fargate.
    assert(stop >= 60 && stop <= 120, name);
  }
});

test('containers cannot write to their image', () => {
  for (const [, task] of full.all('AWS::ECS::TaskDefinition')) {
    for (const container of task.Properties.ContainerDefinitions) assert.equal(container.ReadonlyRootFilesystem, true, container.Name);
  }
});

test('the collector sends metrics that exist, and that an alarm or a graph uses', () => {
  const listed = new Set([...text('docs/metrics.md').matchAll(/^\| `(orders_\w+)`/gm)].map(([, name]) => name));
  const shown = JSON.stringify([full.all('AWS::CloudWatch::Alarm'), full.all('AWS::CloudWatch::Dashboard')]);
  for (const program of ['Api', 'Projector']) {
    const configuration = JSON.stringify(environment(full.container('collector', program)).AOT_CONFIG_CONTENT);
    const named = [...configuration.matchAll(/\borders_[a-z_]+/g)].map(([name]) => name);
    assert(named.length > 0);
    for (const name of named) assert(listed.has(name) && shown.includes(name), name);
    const settings = environment(full.container(program.toLowerCase()));
    assert(configuration.includes(String(settings.OTEL_EXPORTER_OTLP_ENDPOINT).replace('http://', '')));
    assert.equal(settings.OTEL_RESOURCE_ATTRIBUTES, `program=${program.toLowerCase()}`);
    // The exporter for CloudWatch has no largest value of a cumulative histogram, so the alarm of the lag would never come.
    assert.equal(settings.OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, 'delta');
  }
  const alarm = full.one('AWS::CloudWatch::Alarm', 'ObservabilityLag').Properties;
  assert.deepEqual([alarm.MetricName, alarm.Statistic], ['orders_projection_lag_seconds', 'Maximum']);
});
