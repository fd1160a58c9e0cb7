// An OpenID Connect provider in this process, as the identity provider of a company.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';
import { freePort } from './support.js';

const API = 'https://orders.example.com';
const SCOPES = 'orders:place orders:read orders:cancel clients:read products:read sales:read';
const CLIENT = 'pages';

/**
 * Starts a provider. Resolves to it, and to the settings of a service that uses it. `accounts` has the client of each user who is one.
 * `lifetime` is that of access tokens in seconds.
 */
export async function startProvider(t, { accounts = { bob: '1' }, lifetime = 3600 } = {}) {
  const address = `127.0.0.1:${await freePort()}`;
  const pages = ['/shop', '/admin', '/graphiql/'].map((path) => `http://${address}${path}`);
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: CLIENT,
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code', 'refresh_token'],
        redirect_uris: pages,
        post_logout_redirect_uris: pages,
      },
    ],
    jwks: { keys: [{ ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'key' }] },
    cookies: { keys: [randomUUID()] },
    clientBasedCORS: (_, origin) => origin === `http://${address}`,
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    features: {
      resourceIndicators: {
        defaultResource: () => API,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({ scope: SCOPES, audience: API, accessTokenFormat: 'jwt', accessTokenTTL: lifetime, jwt: { sign: { alg: 'RS256' } } }),
      },
    },
    extraTokenClaims: (_, { accountId }) => (accounts[accountId] ? { orders_client: accounts[accountId] } : {}),
    issueRefreshToken: () => true,
    // The pages belong to the company, so that nobody is asked for a consent.
    loadExistingGrant: async ({ oidc: { client, session } }) => {
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid offline_access');
      grant.addResourceScope(API, SCOPES);
      await grant.save();
      return grant;
    },
  });
  server.on('request', provider.callback());
  /** How often a token was requested, by the kind of request. */
  const requests = { authorization_code: 0, refresh_token: 0 };
  provider.on('grant.success', ({ oidc }) => requests[oidc.params.grant_type]++);
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  t.after(stop);
  return {
    requests,
    host: new URL(issuer).host,
    stop,
    settings: {
      LISTEN_ADDR: address,
      JWT_JWKS_URL: `${issuer}/jwks`,
      JWT_ISSUER: issuer,
      JWT_AUDIENCE: API,
      OIDC_ISSUER: issuer,
      OIDC_CLIENT_ID: CLIENT,
      OIDC_SCOPE: `openid offline_access ${SCOPES}`,
    },
  };
}
