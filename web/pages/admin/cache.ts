// How changes of the back office update the cache.
import type { CacheExchangeOpts } from '@urql/exchange-graphcache';

export const cacheOptions: CacheExchangeOpts = {};
