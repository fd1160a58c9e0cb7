-- Puts a client in the place of what is stored of it, in one atomic step.
-- KEYS[1] the client's hash
-- ARGV the largest version that was applied to what is put there, the client's id, the channel that tells of changes; then
-- fields and values
-- Returns 1 when it did, 0 when something newer has been applied meanwhile.
local stored = redis.pcall('HGET', KEYS[1], 'newest')
-- What is damaged is replaced.
local newest = type(stored) == 'string' and tonumber(stored) or 0
if newest > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.pcall('PUBLISH', ARGV[3], ARGV[2])
return 1
