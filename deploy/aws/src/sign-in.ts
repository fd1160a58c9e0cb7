// Where tokens come from: a secret for tests and own issuers, or Amazon Cognito.

import * as cognito from 'aws-cdk-lib/aws-cognito';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as secretsmanager from 'aws-cdk-lib/aws-secretsmanager';
import { Aws, RemovalPolicy, Stack } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { acknowledge } from './findings.js';

/** api/src/edge/auth/scopes.rs */
export const SCOPES = {
  'orders:place': 'Place orders',
  'orders:cancel': 'Cancel orders',
  'orders:refund': 'Refund orders, at any time',
  'orders:read': 'Read orders',
  'clients:read': 'Read clients',
  'clients:write': 'Register and change clients',
  'clients:forget': 'Erase the name and the address of a client',
  'products:read': 'Read products',
  'products:write': 'Create and change products',
  'sales:read': 'Read sales',
  'system:read': 'Read the state of the service',
  'system:write': 'Send dead letters back to the queue, and delete them',
  'graphql:explore': 'Run any document, even when documents must be trusted',
};
/** The scopes of the first token: those of the shop and its staff, without the rights to erase and to operate. */
const FIRST = Object.keys(SCOPES).filter((scope) => !['clients:forget', 'system:write', 'graphql:explore'].includes(scope));

/** What an api needs to check tokens, and the command that prints a token. */
export interface SignIn {
  readonly environment: Record<string, string>;
  readonly secrets: Record<string, ecs.Secret>;
  readonly tokenCommand: string;
}

/** The api and whoever issues tokens share a secret. */
export class SecretSignIn extends Construct implements SignIn {
  readonly environment = {};
  readonly secrets: Record<string, ecs.Secret>;
  readonly tokenCommand: string;

  constructor(scope: Construct, id: string, image: string) {
    super(scope, id);
    const secret = new secretsmanager.Secret(this, 'Secret', {
      description: 'Signs the tokens of the order service (HS256)',
      generateSecretString: { passwordLength: 64, excludePunctuation: true },
    });
    acknowledge(secret, {
      'AwsSolutions-SMG4': 'A new secret makes all tokens invalid at once, so a person chooses the time.',
    });
    this.secrets = { JWT_SECRET: ecs.Secret.fromSecretsManager(secret) };
    this.tokenCommand =
      `JWT_SECRET=$(aws secretsmanager get-secret-value --secret-id ${secret.secretArn} --query SecretString --output text) ` +
      `docker run --rm -e JWT_SECRET ${image} api token --scope '${FIRST.join(' ')}'`;
  }
}

/** A user pool whose machine client gets tokens for itself. */
export class CognitoSignIn extends Construct implements SignIn {
  readonly environment: Record<string, string>;
  readonly secrets = {};
  readonly tokenCommand: string;

  constructor(scope: Construct, id: string, deletionProtection: boolean) {
    super(scope, id);
    const pool = new cognito.UserPool(this, 'Pool', {
      selfSignUpEnabled: false,
      removalPolicy: RemovalPolicy.DESTROY,
      deletionProtection,
      signInAliases: { email: true },
      mfa: cognito.Mfa.REQUIRED,
      mfaSecondFactor: { sms: false, otp: true },
      passwordPolicy: { minLength: 12, requireDigits: true, requireLowercase: true, requireUppercase: true, requireSymbols: true },
    });
    acknowledge(pool, {
      'AwsSolutions-COG8': 'The plus plan costs more. The pool has no users, only clients for machines.',
    });
    const names = Object.entries(SCOPES);
    const scopes = names.map(([scopeName, scopeDescription]) => new cognito.ResourceServerScope({ scopeName, scopeDescription }));
    const server = pool.addResourceServer('Api', { identifier: 'orders', scopes });
    const client = pool.addClient('Machine', {
      generateSecret: true,
      oAuth: {
        flows: { clientCredentials: true },
        scopes: scopes.filter((scope) => FIRST.includes(scope.scopeName)).map((scope) => cognito.OAuthScope.resourceServer(server, scope)),
      },
    });
    const domain = pool.addDomain('Domain', {
      // Unique in the region. Cognito refuses names with "aws" or "cognito".
      cognitoDomain: { domainPrefix: `${Stack.of(this).stackName.toLowerCase()}-${Aws.ACCOUNT_ID}` },
    });
    const issuer = `https://cognito-idp.${Aws.REGION}.amazonaws.com/${pool.userPoolId}`;
    this.environment = {
      JWT_ISSUER: issuer,
      JWT_JWKS_URL: `${issuer}/.well-known/jwks.json`,
      // Access tokens of Cognito have no `aud`.
      JWT_OAUTH_CLIENTS: client.userPoolClientId,
      JWT_SCOPE_PREFIX: 'orders/',
    };
    this.tokenCommand =
      `curl -s ${domain.baseUrl()}/oauth2/token -d grant_type=client_credentials -u ${client.userPoolClientId}:$(aws cognito-idp ` +
      `describe-user-pool-client --user-pool-id ${pool.userPoolId} --client-id ${client.userPoolClientId} ` +
      `--query UserPoolClient.ClientSecret --output text) | node -p 'JSON.parse(fs.readFileSync(0)).access_token'`;
  }
}

/** The issuer is named in the settings of the api. */
export const settingsSignIn: SignIn = { environment: {}, secrets: {}, tokenCommand: '# ask the issuer of JWT_ISSUER' };
