import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CALLER, CERTIFICATE, FULL, FUNCTION, Synthesised, ingress, text } from './synth.js';

const refused = (options: Record<string, string>, reason: RegExp) => assert.throws(() => new Synthesised(options), reason);

test('an option that does not exist is refused', () => {
  refused({ ...CALLER, databaselogin: 'iam' }, /no option databaselogin/);
});

test('an invalid value is refused with the valid ones', () => {
  refused({ ...CALLER, databaseLogin: 'token' }, /databaseLogin=token must be one of password, iam/);
  refused({ ...CALLER, apiTasks: '20-2' }, /apiTasks=20-2 must be a range/);
  refused({ ...CALLER, natGateways: '0' }, /natGateways=0 must be one of 1, 2/);
  for (const [name, values] of Object.entries({
    name: ['my orders', '1orders', 'Orders-', 'Orders--2', 'O'.repeat(30)],
    image: ['my image'],
    allowFrom: ['YOUR_ADDRESS/32', '192.0.2.1', '192.0.2.256/32', '192.0.2.1/33', '192.0.2.1/', '192.0.2.1/32/32', '::1/128', '192.0.2.1/32,'],
    currency: ['usd', 'EURO'],
    apiTasks: ['many', '2', '2-', '-1-5', '1.5-2.5', '1-2-3', '2-5001', '1-1e9', '0-5', '-'],
    databaseCapacity: ['0-1', '0.3-1', '0.5-0.5', '1-257', '1'],
    cacheNode: ['t4g.small'],
    alarmEmail: ['ADDRESS', 'a@example.com,b@example.com'],
    apiSettings: ['{GRAPHIQL: true}', '["GRAPHIQL"]', 'null', '{"graphiql": "true"}'],
    monthlyBudget: ['0', 'Infinity', '-5', '1e300'],
  })) {
    for (const value of values) refused({ ...CALLER, alarmEmail: 'operator@example.com', [name]: value }, new RegExp(`^Error: ${name}.* must be `));
  }
  refused({ ...FUNCTION, projectorTasks: '2-1001' }, /must be at most 1000/);
  for (const name of ['apiTasks', 'projectorTasks']) new Synthesised({ ...CALLER, [name]: '0-0' });
});

test('without a certificate only named addresses may call', () => {
  refused({ image: 'example' }, /set "allowFrom"/);
  for (const allowFrom of ['0.0.0.0/0', '192.0.2.1/0', '0.0.0.0/1,128.0.0.0/1']) {
    refused({ image: 'example', allowFrom }, /needs the option certificate/);
  }
  assert.deepEqual(ingress(new Synthesised({ ...CALLER, allowFrom: '192.0.2.1/32, 198.51.100.0/24' }), 'ServicesLoadBalancer'), ['192.0.2.1/32 80', '198.51.100.0/24 80']);
  new Synthesised({ image: 'example', certificate: CERTIFICATE, domain: 'orders.example.com' });
});

test('a certificate needs the domain for which it is valid, by which the service is called', () => {
  refused({ image: 'example', certificate: CERTIFICATE }, /certificate and domain belong together/);
  refused({ ...CALLER, domain: 'orders.example.com' }, /certificate and domain belong together/);
  refused({ ...FULL, certificate: 'ARN' }, /certificate=ARN must be the ARN of a certificate/);
  refused({ ...FULL, domain: 'https://orders.example.com' }, /domain=.* must be a name without https/);
  const { Outputs } = new Synthesised(FULL).json;
  assert.equal(Outputs.Url.Value, 'https://orders.example.com');
  assert.match(String(Outputs.FirstOrder.Value), /^curl https:\/\/orders\.example\.com\/graphql /);
  assert.match(JSON.stringify(Outputs.LoadBalancer.Value), /DNSName/);
});

test('the certificate must be in the region of the stack', (context) => {
  const before = process.env.CDK_DEFAULT_REGION;
  context.after(() => before === undefined ? delete process.env.CDK_DEFAULT_REGION : (process.env.CDK_DEFAULT_REGION = before));
  process.env.CDK_DEFAULT_REGION = 'us-east-1';
  refused(FULL, /the certificate is in eu-central-1, but the region of the stack is us-east-1/);
  process.env.CDK_DEFAULT_REGION = 'eu-central-1';
  new Synthesised(FULL);
});

test('a user pool has no name that Cognito refuses', () => {
  refused({ ...FULL, name: 'AwsOrders' }, /needs a name without aws/);
});

test('the app prints one line about a wrong option', () => {
  const app = fileURLToPath(new URL('../src/app.js', import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [app], { encoding: 'utf8', env: { ...process.env, CDK_CONTEXT_JSON: '{"certficate": "ARN"}' } });
  assert.deepEqual([status, stdout, stderr], [1, '', 'there is no option certficate; docs/deploy-aws.md lists the options\n']);
});

test('settings of the api are added, but replace nothing that the stack sets', () => {
  const apiSettings = (settings: object) => ({ ...CALLER, apiSettings: JSON.stringify(settings) });
  const api = new Synthesised(apiSettings({ CORS_ORIGINS: 'https://shop.example.com' })).container('api');
  assert.equal(api.Environment?.find(({ Name }) => Name === 'CORS_ORIGINS')?.Value, 'https://shop.example.com');
  refused(apiSettings({ TRUSTED_PROXIES: '2' }), /TRUSTED_PROXIES of api is set by the stack/);
  refused(apiSettings({ JWT_SECRET: 'x' }), /JWT_SECRET of api is set by the stack/);
  refused(apiSettings({ GRAPHIQL: true }), /apiSettings must be an object of strings/);
});

test('an issuer in the settings replaces the secret', () => {
  refused({ ...CALLER, signIn: 'settings' }, /needs JWT_JWKS_URL and JWT_ISSUER/);
  const issuer = { JWT_JWKS_URL: 'https://example.com/keys', JWT_ISSUER: 'https://example.com/' };
  const api = new Synthesised({ ...CALLER, signIn: 'settings', apiSettings: JSON.stringify(issuer) }).container('api');
  assert(!api.Secrets?.some(({ Name }) => Name === 'JWT_SECRET'));
  refused({ ...CALLER, apiSettings: JSON.stringify(issuer) }, /JWT_JWKS_URL in apiSettings needs signIn=settings/);
});

test('a budget needs an amount, and an address for its e-mails', () => {
  refused({ ...CALLER, monthlyBudget: '500' }, /monthlyBudget needs alarmEmail/);
  refused({ ...FULL, monthlyBudget: '500 EUR' }, /monthlyBudget=500 EUR must be an amount/);
});

test('docs/deploy-aws.md lists each option', () => {
  const read = [...text('deploy/aws/src/options.ts').matchAll(/read\.\w+\('(\w+)'/g)].map(([, name]) => name);
  const listed = [...text('docs/deploy-aws.md').matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name);
  assert(read.length > 0);
  assert.deepEqual([...new Set(read)].sort(), listed.sort());
});
