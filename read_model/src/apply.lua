-- Applies one event to one client, in one atomic step. The rules are those of memory.rs.
-- KEYS[1] the client's hash      ARGV version, order total, purchase time (ms), name, e-mail
-- Returns 1 when applied now, 0 when applied before; error CORRUPT, with nothing changed, when it cannot be.
local key = KEYS[1]
local version = tonumber(ARGV[1])

local function corrupt(why)
  return redis.error_reply('CORRUPT ' .. key .. ': ' .. why)
end

local stored = redis.pcall('HMGET', key, 'version', 'newest', 'orders', 'ahead:' .. version)
if stored.err then return corrupt(stored.err) end
local watermark, newest = tonumber(stored[1] or 0), tonumber(stored[2] or 0)
if not (watermark and newest and tonumber(stored[3] or 0)) then return corrupt('not a number') end

if version <= watermark or stored[4] then return 0 end

-- The one effect that can fail comes first. HINCRBY counts in 64 bits, Lua's numbers only in 53.
local total = redis.pcall('HINCRBY', key, 'total', ARGV[2])
if type(total) == 'table' then return corrupt(total.err) end
redis.call('HINCRBY', key, 'orders', 1)
if version > newest then
  redis.call('HSET', key, 'newest', version, 'last_purchase', ARGV[3], 'name', ARGV[4], 'email', ARGV[5])
end
if version == watermark + 1 then
  while redis.call('HDEL', key, 'ahead:' .. (version + 1)) == 1 do version = version + 1 end
  redis.call('HSET', key, 'version', version)
else
  redis.call('HSET', key, 'ahead:' .. version, '')
end
return 1
