-- Stores the generations, unless another process has changed them.
-- KEYS[1] the hash `orders:meta`
-- ARGV the value that its field `generations` had, '' for none; the new value
-- Returns 1 if it was stored, 0 if not.
if (redis.call('HGET', KEYS[1], 'generations') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'generations', ARGV[2])
return 1
