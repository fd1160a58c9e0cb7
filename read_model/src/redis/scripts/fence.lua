-- Gives a partition a new fencing token: from then on it refuses writers that present another.
-- KEYS the partition's fencing token and its copy of the generations
-- ARGV the fencing token, and the generations as JSON
-- Returns the partition's fencing token: a larger one stays.
local stored = redis.pcall('GET', KEYS[1])
local token = type(stored) == 'string' and #stored <= 15 and stored:find('^%d+$') and tonumber(stored) or 0
if token > tonumber(ARGV[1]) then return token end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return tonumber(ARGV[1])
