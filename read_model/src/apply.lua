-- Applies one event to one client, in one atomic step. The rules are those of memory.rs.
-- KEYS[1] the client's hash
-- ARGV version, order total, purchase time (ms), name, e-mail; the client's id and the channel that tells of changes
-- Returns 1 when applied now, 0 when applied before. The error CORRUPT says that the stored data do not allow it; any
-- other is the server's own. With an error nothing has changed: what can fail comes before the first write succeeds.
local key = KEYS[1]
local version = tonumber(ARGV[1])

local function corrupt(why)
  return redis.error_reply('CORRUPT ' .. key .. ': ' .. why)
end

-- Only these name our data as the fault. Out of memory, a full disk, a demoted primary and the like may pass.
local function failed(reply)
  for _, fault in ipairs({'WRONGTYPE', 'not an integer', 'overflow'}) do
    if reply.err:find(fault, 1, true) then return corrupt(reply.err) end
  end
  return reply
end

-- A count as stored, 0 when absent, nil when it is none. Lua's numbers are exact to 15 digits.
local function count(stored)
  if not stored then return 0 end
  if #stored <= 15 and stored:find('^%d+$') then return tonumber(stored) end
end

local stored = redis.pcall('HMGET', key, 'version', 'newest', 'orders', 'ahead:' .. version)
if stored.err then return failed(stored) end
local watermark, newest, orders = count(stored[1]), count(stored[2]), count(stored[3])
if not (watermark and newest and orders) then return corrupt('version, newest or orders is not a count') end

if version <= watermark or stored[4] then return 0 end

-- HINCRBY counts in 64 bits, Lua's numbers only in 53.
local total = redis.pcall('HINCRBY', key, 'total', ARGV[2])
if type(total) == 'table' then return failed(total) end
redis.call('HSET', key, 'orders', orders + 1)
if version > newest then
  redis.call('HSET', key, 'newest', version, 'last_purchase', ARGV[3], 'name', ARGV[4], 'email', ARGV[5])
end
if version == watermark + 1 then
  while redis.call('HDEL', key, 'ahead:' .. (version + 1)) == 1 do version = version + 1 end
  redis.call('HSET', key, 'version', version)
else
  redis.call('HSET', key, 'ahead:' .. version, '')
end
-- Telling may be forbidden (ACL) without harm to what was counted.
redis.pcall('PUBLISH', ARGV[7], ARGV[6])
return 1
