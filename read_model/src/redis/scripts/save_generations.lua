-- Says which generations there are, if nobody else has meanwhile.
-- KEYS[1] the hash `orders:meta`
-- ARGV what its field `generations` was, '' when there was none; what it is to be
-- Returns 1 when it did.
if (redis.call('HGET', KEYS[1], 'generations') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'generations', ARGV[2])
return 1
