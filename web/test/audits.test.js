// Runs the audits of the GraphQL over HTTP specification against the service: https://github.com/graphql/graphql-http
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { serverAudits } from 'graphql-http';
import { start, test } from './support.js';

let service;
before(async () => {
  service = await start();
});

// Without a token, the service refuses each document before it reads it.
const fetchFn = (url, init) => fetch(url, { ...init, headers: { ...init?.headers, ...service.headers } });
const audits = serverAudits({ url: () => service.url, fetchFn });

test('no audit is missing', () => assert.equal(audits.length, 61));

for (const audit of audits) {
  test(`${audit.id} ${audit.name}`, async () => {
    const { status, reason } = await audit.fn();
    assert.equal(status, 'ok', reason);
  });
}
