-- Replaces a client with its recent orders, or removes it, and ranks it, in one atomic step. The sums stay.
-- KEYS[1] the partition's fencing token; KEYS[2] a key that is never written: see keys.rs; KEYS[3] the client's hash
-- ARGV the caller's fencing token; the state of the client: see below; the client's id; the channel for changes, '' for none; the
--   number of recent orders, then the version and the entry of each; then fields and values, none to remove the client
-- Returns 1 if it was replaced, 0 if its state has changed. The error STALE is the one of apply.lua.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end
-- Each event raises the version or adds a field. '' stands for what is missing or damaged.
local version, length = redis.pcall('HGET', KEYS[3], 'version'), redis.pcall('HLEN', KEYS[3])
if type(version) ~= 'string' then version = '' end
if type(length) ~= 'number' then length = '' end
if version .. ' ' .. length ~= ARGV[2] then return 0 end
local generation, id = KEYS[3]:match('^(.*:)client:'), ARGV[3]
local recent, fields = generation .. 'recent:' .. id, 6 + 2 * ARGV[5]
redis.call('DEL', KEYS[3], recent)
for i = 6, fields - 1, 2 do redis.call('ZADD', recent, ARGV[i], ARGV[i + 1]) end
for i = fields, #ARGV, 1000 do redis.call('HSET', KEYS[3], unpack(ARGV, i, math.min(i + 999, #ARGV))) end
local total, refunded, last_purchase = unpack(redis.call('HMGET', KEYS[3], 'total', 'refunded', 'last_purchase'))
local net = refunded and total - refunded or total -- as in apply.lua
for ranking, rank in pairs({[generation .. 'rank:total'] = net, [generation .. 'rank:last'] = last_purchase or 0}) do
  if redis.call('TYPE', ranking).ok ~= 'zset' then redis.call('DEL', ranking) end
  if #ARGV >= fields then redis.call('ZADD', ranking, rank, id) else redis.call('ZREM', ranking, id) end
end
if ARGV[4] ~= '' then redis.pcall('PUBLISH', ARGV[4], id) end
return 1
