import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CALLER, CERTIFICATE, FULL, Synthesised, text } from './synth.js';

const refused = (options: Record<string, string>, reason: RegExp) => assert.throws(() => new Synthesised(options), reason);

test('an option that does not exist is refused', () => {
  refused({ ...CALLER, databaselogin: 'iam' }, /no option databaselogin/);
});

test('an invalid value is refused with the valid ones', () => {
  refused({ ...CALLER, databaseLogin: 'token' }, /databaseLogin=token must be one of password, iam/);
  refused({ ...CALLER, apiTasks: '20-2' }, /apiTasks=20-2 must be a range/);
  refused({ ...CALLER, natGateways: '0' }, /natGateways must be/);
});

test('without a certificate only named addresses may call', () => {
  refused({ image: 'example' }, /set "allowFrom"/);
  refused({ image: 'example', allowFrom: '0.0.0.0/0' }, /needs the option certificate/);
  new Synthesised({ image: 'example', certificate: CERTIFICATE, domain: 'orders.example.com' });
});

test('a certificate needs the domain for which it is valid, by which the service is called', () => {
  refused({ image: 'example', certificate: CERTIFICATE }, /certificate and domain belong together/);
  refused({ ...CALLER, domain: 'orders.example.com' }, /certificate and domain belong together/);
  const { Outputs } = new Synthesised(FULL).json;
  assert.equal(Outputs.Url.Value, 'https://orders.example.com');
  assert.match(String(Outputs.FirstOrder.Value), /^curl https:\/\/orders\.example\.com\/graphql /);
  assert.match(JSON.stringify(Outputs.LoadBalancer.Value), /DNSName/);
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
