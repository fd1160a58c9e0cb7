fetch('/graphiql/config.json')
  .then((response) => response.json())
  .then(({ endpoint, headers, examples }) => {
    const fetcher = GraphiQL.createFetcher({ url: endpoint, headers });
    const defaultTabs = examples.map((query) => ({ query, headers: JSON.stringify(headers, null, 2) }));
    const page = React.createElement(GraphiQL, { fetcher, defaultTabs, defaultEditorToolsVisibility: 'headers' });
    ReactDOM.createRoot(document.getElementById('graphiql')).render(page);
  });
