-- Puts a client in the place of what is stored of it, or removes it, in one atomic step, and ranks it. Its lists and sums stay.
-- KEYS[1] the partition's fencing_token, a key that is not there, the client's hash
-- ARGV the fencing_token that it is of; what the hash's field `newest` was before the log was read, '' when there was none; the
-- largest version that the log has; the client's id and the channel that tells of changes, '' for none; then fields and values, none to
-- remove it
-- Returns 1 when it did, 0 when something newer than the log has been applied meanwhile. The error STALE is that of apply.lua.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end
local stored = redis.pcall('HGET', KEYS[3], 'newest')
if type(stored) ~= 'string' then stored = '' end -- nothing, or no hash at all
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
