// Signing in with OpenID Connect: the authorization code flow with PKCE. Pages load this part only if the service names a provider.
import { ErrorResponse, ErrorTimeout, UserManager, WebStorageStateStore } from 'oidc-client-ts';
import { SignInError } from './sign-in-error';

/** The provider, from the settings of the service. */
export type ProviderSettings = { issuer: string; clientId: string; scope: string; audience: string | null };

/** What a page does with the provider. Each failure is a `SignInError`. */
export type Provider = ReturnType<typeof openProvider>;

/** The path of the page is where the provider sends the user back. */
export function openProvider({ issuer, clientId, scope, audience }: ProviderSettings, path: string) {
  const storage = new WebStorageStateStore({ store: sessionStorage });
  const page = new URL(path, location.origin).href;
  const manager = new UserManager({
    authority: issuer,
    client_id: clientId,
    redirect_uri: page,
    post_logout_redirect_uri: page,
    scope,
    // Auth0 has its own parameter for what RFC 8707 calls the resource.
    ...(audience ? { extraQueryParams: { audience }, resource: audience } : {}),
    userStore: storage,
    stateStore: storage,
    automaticSilentRenew: false,
    requestTimeoutInSeconds: 10,
  });
  return {
    /** Leaves the page for the provider, which sends the user back to the address that is open now. */
    start: () => explain(() => manager.signinRedirect({ state: location.pathname + location.search + location.hash })),
    /** Completes the sign-in if the provider has just sent the user back. Resolves to whether it has. */
    finish: () =>
      explain(async () => {
        const { href, search } = location;
        const parameters = new URLSearchParams(search);
        if (!parameters.has('state') || !(parameters.has('code') || parameters.has('error'))) return false;
        // Not again after a reload.
        history.replaceState(null, '', path);
        const user = await manager.signinCallback(href);
        history.replaceState(null, '', String(user?.state ?? path));
        return true;
      }),
    /** Another token than the refused one. Undefined if the user must sign in again. */
    token: (refused?: string) =>
      explain(async () => {
        const user = await manager.getUser();
        if (user && !user.expired && user.access_token !== refused) return user.access_token;
        // Without a refresh token, the library would open a frame, which the security policy does not allow.
        if (!user?.refresh_token) return undefined;
        try {
          return (await manager.signinSilent())?.access_token;
        } catch (error) {
          if (error instanceof ErrorResponse) return undefined;
          throw error;
        }
      }),
    /** Forgets the tokens, and leaves the page for the provider so that it ends its session, too. Resolves if it does not. */
    end: () =>
      // Amazon Cognito has its own names for these two parameters, and requires both.
      manager.signoutRedirect({ extraQueryParams: { client_id: clientId, logout_uri: page } }).catch(() => undefined),
  };
}

const MESSAGES: Record<string, string> = {
  access_denied: 'You were not signed in: access was denied or cancelled.',
  invalid_client: 'The sign-in service does not know this page.',
  server_error: 'The sign-in service has failed. Try again later.',
  temporarily_unavailable: 'The sign-in service is not available at the moment. Try again later.',
  unauthorized_client: 'The sign-in service does not let this page sign users in.',
};

async function explain<Result>(step: () => Promise<Result>): Promise<Result> {
  try {
    return await step();
  } catch (cause) {
    throw new SignInError(messageOf(cause), { cause });
  }
}

function messageOf(error: unknown): string {
  if (error instanceof ErrorResponse) return MESSAGES[error.error ?? ''] ?? `The sign-in service reports: ${error.message}`;
  if (error instanceof ErrorTimeout || error instanceof TypeError) return 'The sign-in service cannot be reached.';
  const { message } = error as Error;
  return message.startsWith('No matching state')
    ? 'This sign-in has expired, or was started in another tab. Sign in again.'
    : `Signing in has failed: ${message}`;
}
