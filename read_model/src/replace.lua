-- Puts a client in the place of what is stored of it, or removes it, in one atomic step.
-- KEYS[1] the client's hash
-- ARGV what its field `newest` was before the log was read, '' when there was none; the largest version that the log has;
-- the client's id and the channel that tells of changes; then fields and values, none to remove it
-- Returns 1 when it did, 0 when something newer than the log has been applied meanwhile.
local stored = redis.pcall('HGET', KEYS[1], 'newest')
if type(stored) ~= 'string' then stored = '' end -- nothing, or no hash at all
local is_as_before = stored == ARGV[1]
local is_in_the_log = (tonumber(stored) or 0) <= tonumber(ARGV[2])
if not (is_as_before or is_in_the_log) then return 0 end
redis.call('DEL', KEYS[1])
if #ARGV > 4 then redis.call('HSET', KEYS[1], unpack(ARGV, 5)) end
redis.pcall('PUBLISH', ARGV[4], ARGV[3])
return 1
