-- From now on only what knows this epoch is applied to this partition.
-- KEYS[1] the partition's epoch, and what its generations are
-- ARGV the epoch, and its generations as JSON
-- Returns what the partition's epoch is now: a larger one stays.
local stored = redis.pcall('GET', KEYS[1])
local epoch = type(stored) == 'string' and #stored <= 15 and stored:find('^%d+$') and tonumber(stored) or 0
if epoch > tonumber(ARGV[1]) then return epoch end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return tonumber(ARGV[1])
