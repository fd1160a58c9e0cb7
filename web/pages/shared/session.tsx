// Signing in: where tokens come from, how long they are kept, and what they allow.
import { Alert, Button, Center, Loader } from '@mantine/core';
import { jwtDecode } from 'jwt-decode';
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from 'react';
import type { Provider, ProviderSettings } from './oidc';
import { SignInError } from './sign-in-error';

/**
 * How the user has signed in. It is kept in the session storage, so that a reload keeps the session.
 * - `development`: a service on the same machine gives its pages a token, also one for a single client
 * - `token`: a token that the user has pasted
 * - `oidc`: the OpenID Connect provider of the service; oidc.ts keeps its tokens
 */
export type SignIn = { how: 'development'; client?: string } | { how: 'token'; token: string } | { how: 'oidc' };

/** In milliseconds. */
const TIMEOUT = 15_000;

/** What the service tells its pages. */
type Config = {
  /** The header with a token, if this is a service for development on the same machine. */
  headers: { Authorization?: string };
  /** The names of the claims, and what to remove from each scope. */
  claims: { client: string; scope: string; scopePrefix: string };
  /** Those of the shop. Null: those of the browser. */
  locale: string | null;
  timeZone: string | null;
  oidc?: ProviderSettings | null;
};

async function fetchConfig(client?: string): Promise<Config> {
  const query = client ? `?${new URLSearchParams({ client })}` : '';
  const response = await fetch(`/pages/config.json${query}`, { signal: AbortSignal.timeout(TIMEOUT) });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as Config;
}

/** The provider sends users back to the path of their page, such as `/shop`. */
const loadProvider = async (settings: ProviderSettings): Promise<Provider> =>
  (await import('./oidc')).openProvider(settings, /^\/[^/]*/.exec(location.pathname)![0]);

/** Returns a token: another one than that which was refused, if there is one. Undefined if the user must sign in again. */
async function fetchToken(signIn: SignIn, config: Config, refused?: string): Promise<string | undefined> {
  const { oidc } = config;
  switch (signIn.how) {
    case 'development': {
      const { headers } = signIn.client || refused ? await fetchConfig(signIn.client) : config;
      return headers.Authorization?.replace('Bearer ', '');
    }
    case 'token':
      return signIn.token;
    case 'oidc':
      return oidc ? (await loadProvider(oidc)).token(refused) : undefined;
  }
}

/** A token and what it says. */
export class Session {
  readonly subject: string;
  /** The only client that the token may act for. Undefined: any. */
  readonly client: string | undefined;
  readonly scopes: string[];
  /** Those of the shop. Undefined: those of the browser. */
  readonly locale: string | undefined;
  readonly timeZone: string | undefined;
  private renewal: Promise<void> | undefined;

  constructor(
    readonly signIn: SignIn,
    public token: string,
    private readonly config: Config,
    private readonly onExpired: () => void,
  ) {
    const { claims, locale, timeZone } = config;
    this.locale = locale ?? undefined;
    this.timeZone = timeZone ?? undefined;
    const decoded = claimsOf(token, signIn);
    const scopes = decoded[claims.scope] ?? [];
    this.subject = String(decoded['sub']);
    this.client = decoded[claims.client] as string | undefined;
    this.scopes = (typeof scopes === 'string' ? scopes.split(' ') : scopes).map((scope) =>
      scope.startsWith(claims.scopePrefix) ? scope.slice(claims.scopePrefix.length) : scope,
    );
  }

  may(scope: string): boolean {
    return this.scopes.includes(scope);
  }

  /** Replaces a refused token by a new one, for all requests at once. Without one, the session ends. */
  renew(refused: string): Promise<void> {
    if (refused !== this.token) return Promise.resolve();
    this.renewal ??= this.replaceToken().finally(() => (this.renewal = undefined));
    return this.renewal;
  }

  /** Ends the session with the provider, too, which leaves the page. Resolves if there is none or it cannot be reached. */
  async end(): Promise<void> {
    const { oidc } = this.config;
    if (this.signIn.how === 'oidc' && oidc) await (await loadProvider(oidc)).end();
  }

  private async replaceToken(): Promise<void> {
    const token = await fetchToken(this.signIn, this.config, this.token);
    if (token && token !== this.token) {
      this.token = token;
      return;
    }
    this.onExpired();
    throw new Error('the session has expired');
  }
}

function claimsOf(token: string, { how }: SignIn): Record<string, string | string[] | undefined> {
  try {
    return jwtDecode(token);
  } catch {
    throw new SignInError(how === 'oidc' ? 'The access token of the sign-in service is not a JWT.' : 'This is not a token.');
  }
}

/** A new session. Undefined if the user must sign in again. A sign-in that fails, for example by a forged link, does not end an existing session. */
async function openSession(signIn: SignIn | undefined, config: Config, onExpired: () => void): Promise<Session | undefined> {
  let failure: unknown;
  try {
    if (config.oidc && (await (await loadProvider(config.oidc)).finish())) signIn = { how: 'oidc' };
  } catch (error) {
    failure = error;
  }
  const token = signIn && (await fetchToken(signIn, config));
  if (signIn && token) return new Session(signIn, token, config, onExpired);
  if (failure) throw failure;
}

type State =
  | { is: 'starting' }
  /** The service cannot be reached. */
  | { is: 'failed' }
  | {
      is: 'signed out';
      hasExpired: boolean;
      /** Why signing in has failed. */
      problem: string | undefined;
      /** Whether users sign in with an OpenID Connect provider. */
      hasProvider: boolean;
      /** The session of a developer, if this is a service for development on the same machine. */
      development: Session | undefined;
    }
  | { is: 'signed in'; session: Session };

type Sessions = {
  state: State;
  /** Resolves to a sentence about the problem if the token cannot be used. */
  signIn: (signIn: SignIn) => Promise<string | undefined>;
  signOut: () => Promise<unknown>;
  /** Starts again after the service could not be reached. */
  restart: () => Promise<unknown>;
};

const SessionContext = createContext<Sessions | undefined>(undefined);

export function useSessions(): Sessions {
  return useContext(SessionContext)!;
}

/** The session of the user, for pages that are only shown to users who are signed in. */
export function useSession(): Session {
  const { state } = useSessions();
  if (state.is !== 'signed in') throw new Error('nobody is signed in');
  return state.session;
}

/** How the user had signed in before a reload. Undefined after signing out, and `initial` if the user has not chosen yet. */
function chosen(key: string, initial: SignIn | undefined): SignIn | undefined {
  const text = sessionStorage.getItem(key);
  return text === null ? initial : ((JSON.parse(text) as SignIn | null) ?? undefined);
}

function createActions(key: string, initial: SignIn | undefined, setState: (state: State) => void) {
  const choose = (signIn: SignIn | null) => sessionStorage.setItem(key, JSON.stringify(signIn));
  let session: Session | undefined;
  let hasProvider = false;

  /** `hasExpired` is set if a session has just ended, also if the service cannot be reached. */
  const open = async (signIn?: SignIn, hasExpired?: boolean): Promise<string | undefined> => {
    let problem: string | undefined;
    try {
      const config = await fetchConfig();
      hasProvider = Boolean(config.oidc);
      try {
        session = await openSession(signIn, config, expire);
      } catch (error) {
        if (!(error instanceof SignInError) || signIn?.how === 'token') throw error;
        session = undefined;
        problem = error.message;
      }
      if (session) {
        choose(session.signIn);
        setState({ is: 'signed in', session });
      } else {
        const development = await openSession({ how: 'development' }, config, () => void open());
        setState({ is: 'signed out', hasExpired: hasExpired ?? false, problem, hasProvider, development });
      }
    } catch (error) {
      if (error instanceof SignInError) return error.message;
      if (hasExpired === undefined) setState({ is: 'failed' });
      else setState({ is: 'signed out', hasExpired, problem, hasProvider, development: undefined });
    }
  };

  const expire = () => {
    sessionStorage.removeItem(key);
    void open(undefined, true);
  };

  /** Leaves the page for the provider. */
  const leave = async (): Promise<string | undefined> => {
    try {
      const { oidc } = await fetchConfig();
      if (oidc) await (await loadProvider(oidc)).start();
    } catch (error) {
      return error instanceof SignInError ? error.message : 'The service cannot be reached.';
    }
  };

  return {
    signIn: (signIn: SignIn) => (signIn.how === 'oidc' ? leave() : open(signIn)),
    signOut: async () => {
      // First, so that the token is gone also if nothing can be reached.
      choose(null);
      setState({ is: 'starting' });
      await session?.end();
      await open(undefined, false);
    },
    restart: () => open(chosen(key, initial)),
  };
}

/**
 * `app` keeps a session of its own, because the shop needs a token of another kind than the back office in the same tab. `initial` is how
 * users sign in who have not chosen yet.
 */
export function SessionProvider({ app, initial, children }: { app: 'admin' | 'shop'; initial?: SignIn; children: ReactNode }) {
  const [state, setState] = useState<State>({ is: 'starting' });
  const [actions] = useState(() => createActions(`sign-in-${app}`, initial, setState));
  useEffect(() => void actions.restart(), []);
  const sessions = useMemo(() => ({ state, ...actions }), [state]);
  return <SessionContext value={sessions}>{children}</SessionContext>;
}

/** Shows `children` to users who are signed in, and `signInPage` to others. Nothing else is shown before. */
export function SignedIn({ signInPage, children }: { signInPage: ReactNode; children: (session: Session) => ReactNode }) {
  const { state, restart } = useSessions();
  switch (state.is) {
    case 'starting':
      return <Center component="main" mih="60vh"><Loader aria-label="Loading" role="status" /></Center>;
    case 'failed':
      return (
        <Center component="main" mih="60vh">
          <Alert color="red" role="alert" title="The service cannot be reached.">
            <Button color="red" size="xs" onClick={restart}>Try again</Button>
          </Alert>
        </Center>
      );
    case 'signed out':
      return signInPage;
    case 'signed in':
      return children(state.session);
  }
}
