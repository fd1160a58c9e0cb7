// GraphiQL for this service. The endpoint, a token and example operations come from config.json in the same folder.
import 'graphiql/setup-workers/vite';
import 'graphiql/style.css';
import { useGraphiQL, useGraphiQLActions } from '@graphiql/react';
import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createClient } from 'graphql-ws';
import { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

/** Milliseconds without a change of the headers before a new token is used. */
const TYPING_PAUSE = 500;

const page = createRoot(document.getElementById('page'));
try {
  const response = await fetch('config.json');
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  const config = await response.json();
  const provider = config.oidc && (await import('../pages/shared/oidc')).openProvider(config.oidc, '/graphiql/');
  const { token, problem } = provider ? await signedIn(provider) : {};
  const headers = token ? { Authorization: `Bearer ${token}` } : config.headers;
  page.render(
    <GraphiQL
      fetcher={fetcher(new URL(config.endpoint, location.href), headers)}
      defaultTabs={config.examples.map((query) => ({ query }))}
      defaultHeaders={JSON.stringify(headers, null, 2)}
      // The headers contain the token, which must not be stored by the browser. The history would store it too.
      shouldPersistHeaders={false}
      plugins={[]}
    >
      <WordWrap />
      <SchemaLoader authorization={headers.Authorization} />
      {provider && <SignIn provider={provider} isSignedIn={Boolean(token)} problem={problem} />}
    </GraphiQL>,
  );
} catch (error) {
  page.render(<p role="alert">The settings of this page (config.json) cannot be read: {error.message}</p>);
}

/** The token of the user whom the provider has signed in, if any. */
async function signedIn(provider) {
  try {
    await provider.finish();
    return { token: await provider.token() };
  } catch ({ message }) {
    return { problem: message };
  }
}

/** A button that signs in with the provider, or out. */
function SignIn({ provider, isSignedIn, problem }) {
  const [refusal, setRefusal] = useState(problem);
  const signIn = () => provider.start().catch(({ message }) => setRefusal(message));
  const signOut = () => provider.end().then(() => location.reload());
  return (
    <p>
      <button type="button" className="graphiql-button" onClick={isSignedIn ? signOut : signIn}>{isSignedIn ? 'Sign out' : 'Sign in'}</button>
      {refusal && <span role="alert"> {refusal}</span>}
    </p>
  );
}

/** Wraps long lines, such as the comments of the examples. */
function WordWrap() {
  const queryEditor = useGraphiQL(({ queryEditor }) => queryEditor);
  useEffect(() => queryEditor?.updateOptions({ wordWrap: 'on', wrappingIndent: 'indent' }), [queryEditor]);
  return null;
}

/**
 * Loads the schema again whenever another token is entered, because the service does not even return the schema without a token.
 * Says so until there is a schema.
 */
function SchemaLoader({ authorization }) {
  const { headerEditor, schema, fetchError } = useGraphiQL(({ headerEditor, schema, fetchError }) => ({ headerEditor, schema, fetchError }));
  const { introspect } = useGraphiQLActions();
  const used = useRef(authorization);
  useEffect(() => {
    let timer;
    const useToken = () => {
      const entered = authorizationIn(headerEditor.getValue());
      if (!entered || entered === used.current) return;
      used.current = entered;
      introspect();
    };
    const changes = headerEditor?.onDidChangeModelContent(() => {
      clearTimeout(timer);
      timer = setTimeout(useToken, TYPING_PAUSE);
    });
    return () => {
      clearTimeout(timer);
      changes?.dispose();
    };
  }, [headerEditor, introspect]);
  if (schema || !fetchError) return null;
  return (
    <p role="status">
      The schema is loaded when you enter a valid token under Headers: <code>{'{ "Authorization": "Bearer …" }'}</code>
    </p>
  );
}

/** The token in the text of the headers editor; undefined while the text is incomplete. */
function authorizationIn(text) {
  try {
    const headers = Object.entries(JSON.parse(text));
    return headers.find(([name]) => name.toLowerCase() === 'authorization')?.[1];
  } catch {
    return undefined;
  }
}

function fetcher(url, defaultHeaders) {
  const subscriptions = new URL(url);
  subscriptions.protocol = url.protocol.replace('http', 'ws');
  return (request, options) => {
    // `options` has no headers only for the introspection query, which is sent before the headers editor exists.
    const { headers, documentAST } = { headers: defaultHeaders, ...options };
    // One client for each request, so that a subscription uses the current token of the headers editor. It connects only
    // for subscriptions.
    const wsClient = createClient({
      url: subscriptions.href,
      connectionParams: headers,
      // A refused token is reported at once, because trying again does not help.
      shouldRetry: (reason) => reason instanceof CloseEvent && reason.code !== 4403,
    });
    return createGraphiQLFetcher({ url: url.href, wsClient, enableIncrementalDelivery: false })(request, {
      headers,
      documentAST,
    });
  };
}
