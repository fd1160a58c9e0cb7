// GraphiQL for this service. The endpoint, a token and example operations come from config.json, beside the page.
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
      // Headers carry the token: it has no place in the browser's storage, where the history would keep it as well.
      shouldPersistHeaders={false}
      plugins={[]}
    />,
  );
} catch (error) {
  page.render(<p role="alert">The settings of this page, config.json, cannot be read: {error.message}</p>);
}

function fetcher(url, defaultHeaders) {
  const subscriptions = new URL(url);
  subscriptions.protocol = url.protocol.replace('http', 'ws');
  return (request, options) => {
    // The schema is asked for before there is a headers editor: only then options say nothing of headers.
    const { headers, documentAST } = { headers: defaultHeaders, ...options };
    // A client for each request, so that a subscription takes the token that is in the headers editor now. It connects
    // when a subscription starts, and only then.
    const wsClient = createClient({
      url: subscriptions.href,
      connectionParams: headers,
      // A refused token stays refused: better to say so at once.
      shouldRetry: (reason) => reason instanceof CloseEvent && reason.code !== 4403,
    });
    return createGraphiQLFetcher({ url: url.href, wsClient, enableIncrementalDelivery: false })(request, {
      headers,
      documentAST,
    });
  };
}
