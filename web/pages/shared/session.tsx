// Signing in: where tokens come from, how long they are kept, and what they allow.
import { Alert, Button, Center, Loader } from '@mantine/core';
import { InvalidTokenError, jwtDecode } from 'jwt-decode';
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from 'react';

/**
 * How the user has signed in. It is kept in the session storage, so that a reload keeps the session.
 * - `development`: a service on the same machine gives its pages a token, also one for a single client
 * - `token`: a token that the user has pasted
 */
export type SignIn = { how: 'development'; client?: string } | { how: 'token'; token: string };

/** Returns a token. Undefined if the user must sign in again. */
async function fetchToken(signIn: SignIn): Promise<string | undefined> {
  switch (signIn.how) {
    case 'development': {
      const { headers } = await fetchConfig(signIn.client);
      return headers.Authorization?.replace('Bearer ', '');
    }
    case 'token':
      return signIn.token;
    // OpenID Connect belongs here: `case 'oidc': return (await userManager.signinSilent())?.access_token`.
  }
}

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
};

async function fetchConfig(client?: string): Promise<Config> {
  const query = client ? `?${new URLSearchParams({ client })}` : '';
  const response = await fetch(`/pages/config.json${query}`, { signal: AbortSignal.timeout(TIMEOUT) });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as Config;
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
    private readonly signIn: SignIn,
    public token: string,
    { claims, locale, timeZone }: Config,
    private readonly onExpired: () => void,
  ) {
    const decoded = jwtDecode<Record<string, string | string[] | undefined>>(token);
    const scopes = decoded[claims.scope] ?? [];
    this.locale = locale ?? undefined;
    this.timeZone = timeZone ?? undefined;
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

  private async replaceToken(): Promise<void> {
    const token = await fetchToken(this.signIn);
    if (token && token !== this.token) {
      this.token = token;
      return;
    }
    this.onExpired();
    throw new Error('the session has expired');
  }
}

type State =
  | { is: 'starting' }
  /** The service cannot be reached. */
  | { is: 'failed' }
  /** `development` is the session of a developer, if this is a service for development on the same machine. */
  | { is: 'signed out'; hasExpired: boolean; development: Session | undefined }
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

/** How the user had signed in before a reload. */
function stored(key: string): SignIn | undefined {
  const text = sessionStorage.getItem(key);
  return text === null ? undefined : (JSON.parse(text) as SignIn);
}

/**
 * `app` keeps a session of its own, because the shop needs a token of another kind than the back office in the same tab. `initial` is how
 * users sign in who have not chosen yet.
 */
export function SessionProvider({ app, initial, children }: { app: 'admin' | 'shop'; initial?: SignIn; children: ReactNode }) {
  const [state, setState] = useState<State>({ is: 'starting' });
  const key = `sign-in-${app}`;

  /** Ends the session, also if the service cannot be reached. */
  const end = useCallback(async (hasExpired: boolean) => {
    sessionStorage.removeItem(key);
    setState({ is: 'starting' });
    const development = await developer().catch(() => undefined);
    setState({ is: 'signed out', hasExpired, development });
  }, []);

  /** The session of the developer, which also lists the clients of the shop before one has signed in. */
  const developer = async (): Promise<Session | undefined> => {
    const signIn = { how: 'development' } as const;
    const token = await fetchToken(signIn);
    return token === undefined ? undefined : new Session(signIn, token, await fetchConfig(), () => void end(false));
  };

  const open = useCallback(async (signIn: SignIn | undefined): Promise<string | undefined> => {
    try {
      const token = signIn && (await fetchToken(signIn));
      if (signIn && token) {
        const session = new Session(signIn, token, await fetchConfig(), () => void end(true));
        sessionStorage.setItem(key, JSON.stringify(signIn));
        setState({ is: 'signed in', session });
        return;
      }
      sessionStorage.removeItem(key);
      setState({ is: 'signed out', hasExpired: false, development: await developer() });
    } catch (error) {
      if (error instanceof InvalidTokenError) return 'This is not a token.';
      setState({ is: 'failed' });
    }
  }, []);
  useEffect(() => void open(stored(key) ?? initial), []);

  const sessions = useMemo(
    () => ({ state, signIn: open, signOut: () => end(false), restart: () => open(stored(key) ?? initial) }),
    [state, open, end],
  );
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
