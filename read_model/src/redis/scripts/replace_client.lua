-- Replaces a client, or removes it, and ranks it, in one atomic step. Its recent orders and the sums stay.
-- KEYS[1] the partition's fencing token; KEYS[2] a key that is never written: see keys.rs; KEYS[3] the client's hash
-- ARGV the caller's fencing token; the value of the hash's field `newest` before the log was read, '' for none; the largest version
--   in the log; the client's id; the channel for changes, '' for none; then fields and values, none to remove the client
-- Returns 1 if it was replaced, 0 if an event that is not in the log was applied meanwhile. The error STALE is the one of apply.lua.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end
local stored = redis.pcall('HGET', KEYS[3], 'newest')
if type(stored) ~= 'string' then stored = '' end -- no such field, or not a hash
local is_as_before = stored == ARGV[2]
local is_in_the_log = (tonumber(stored) or 0) <= tonumber(ARGV[3])
if not (is_as_before or is_in_the_log) then return 0 end
local generation, id = KEYS[3]:match('^(.*:)client:'), ARGV[4]
local rankings = {total = generation .. 'rank:total', last_purchase = generation .. 'rank:last'}
for _, ranking in pairs(rankings) do
  if redis.call('TYPE', ranking).ok ~= 'zset' then redis.call('DEL', ranking) end
end
redis.call('DEL', KEYS[3])
if #ARGV > 5 then redis.call('HSET', KEYS[3], unpack(ARGV, 6)) end
for field, ranking in pairs(rankings) do
  if #ARGV > 5 then
    redis.call('ZADD', ranking, redis.call('HGET', KEYS[3], field) or 0, id)
  else
    redis.call('ZREM', ranking, id)
  end
end
if ARGV[5] ~= '' then redis.pcall('PUBLISH', ARGV[5], ARGV[4]) end
return 1
