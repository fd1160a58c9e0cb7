// A client of the api, with the commands that the stack prints.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import type { Deployed, Served } from './deployed.js';

export class Shop {
  private constructor(private readonly token: string) {}

  /** Gets a token, creates a product, registers a client and places its first order, all with the printed commands. */
  static open({ outputs, command }: Deployed, api: Served): Shop {
    const { Token, FirstOrder, Url } = outputs;
    // The program of this machine instead of that in the image.
    const [, ...args] = /api (token) (--scope) '([^']+)'/.exec(Token) ?? [];
    const token = command('api', ...args).trim();
    const env = { ...process.env, TOKEN: token };
    const placed = execFileSync('sh', ['-c', FirstOrder.replace(Url, api.url)], { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    assert.equal(JSON.parse(placed).data.placeOrder.order.total.amount, '25.00', placed);
    return new Shop(token);
  }

  async graphql(url: string, query: string): Promise<any> {
    const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${this.token}` };
    const response = await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query }) });
    const body = await response.text();
    assert(response.ok && !body.includes('"errors"'), body);
    return JSON.parse(body).data;
  }

  /** Places another order, and returns the version of the client. */
  async place(url: string): Promise<number> {
    const place = 'mutation { placeOrder(input: {clientId: "1", items: [{productId: "1", quantity: 1}]}) { clientVersion } }';
    return (await this.graphql(url, place)).placeOrder.clientVersion;
  }

  async client(url: string) {
    return (await this.graphql(url, '{ client(id: "1") { name orderCount total { amount } } }')).client;
  }
}
