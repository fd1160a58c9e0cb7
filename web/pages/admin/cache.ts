// The cache of the back office. Its tables query each page on their own, so lists are not merged as in the shop.
import type { Cache, CacheExchangeOpts } from '@urql/exchange-graphcache';
import { byId } from '../shared/graphql';

/** The lists are read again when they are shown. */
const forgetLists = (name: string) => (_result: unknown, _arguments: unknown, cache: Cache) => {
  for (const { fieldName, fieldKey } of cache.inspectFields('Query')) if (fieldName === name) cache.invalidate('Query', fieldKey);
};

export const cacheOptions: CacheExchangeOpts = {
  resolvers: { Query: { order: byId('Order'), product: byId('Product') } },
  updates: {
    Mutation: { createProduct: forgetLists('products'), registerClient: forgetLists('clients') },
  },
};
