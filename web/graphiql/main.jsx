// GraphiQL for this service. The endpoint, a token and example operations come from config.json in the same folder.
import 'graphiql/setup-workers/vite';
import 'graphiql/style.css';
import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createClient } from 'graphql-ws';
import { createRoot } from 'react-dom/client';

const page = createRoot(document.getElementById('page'));
try {
  const response = await fetch('config.json');
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  const config = await response.json();
  page.render(
    <GraphiQL
      fetcher={fetcher(new URL(config.endpoint, location.href), config.headers)}
      defaultTabs={config.examples.map((query) => ({ query }))}
      defaultHeaders={JSON.stringify(config.headers, null, 2)}
      // The headers contain the token, which must not be stored by the browser. The history would store it too.
      shouldPersistHeaders={false}
      plugins={[]}
    />,
  );
} catch (error) {
  page.render(<p role="alert">The settings of this page (config.json) cannot be read: {error.message}</p>);
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
