-- From now on only what knows this fencing_token is applied to this partition.
-- KEYS[1] the partition's fencing_token, and what its generations are
-- ARGV the fencing_token, and its generations as JSON
-- Returns what the partition's fencing_token is now: a larger one stays.
local stored = redis.pcall('GET', KEYS[1])
local fencing_token = type(stored) == 'string' and #stored <= 15 and stored:find('^%d+$') and tonumber(stored) or 0
if fencing_token > tonumber(ARGV[1]) then return fencing_token end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return tonumber(ARGV[1])
