-- Applies one event to one client, in one atomic step, in each generation. The rules are those of memory.rs.
-- KEYS[1] the partition's epoch, then the client's hash in each generation, the one that matters first
-- ARGV the epoch that these are of; version, order total, purchase time (ms), name, e-mail; the client's id and the
-- channel that tells of changes, '' for none
-- Returns how many were changed: 0 when it had been applied before. The error STALE says that there are other generations
-- by now; CORRUPT that the stored data of the first do not allow it (another is compared before it is read); any other is
-- the server's own. With an error the hash that it is about has not changed: what can fail comes before the first write
-- succeeds.
local version = tonumber(ARGV[2])

local function corrupt(key, why)
  return redis.error_reply('CORRUPT ' .. key .. ': ' .. why)
end

-- Only these name our data as the fault. Out of memory, a full disk, a demoted primary and the like may pass.
local function failed(key, reply)
  for _, fault in ipairs({'WRONGTYPE', 'not an integer', 'overflow'}) do
    if reply.err:find(fault, 1, true) then return corrupt(key, reply.err) end
  end
  return reply
end

-- A count as stored, 0 when absent, nil when it is none. Lua's numbers are exact to 15 digits.
local function count(stored)
  if not stored then return 0 end
  if #stored <= 15 and stored:find('^%d+$') then return tonumber(stored) end
end

-- Returns 1 or 0, or an error.
local function apply(key)
  local stored = redis.pcall('HMGET', key, 'version', 'newest', 'orders', 'ahead:' .. version)
  if stored.err then return failed(key, stored) end
  local watermark, newest, orders = count(stored[1]), count(stored[2]), count(stored[3])
  if not (watermark and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end

  if version <= watermark or stored[4] then return 0 end

  -- HINCRBY counts in 64 bits, Lua's numbers only in 53.
  local total = redis.pcall('HINCRBY', key, 'total', ARGV[3])
  if type(total) == 'table' then return failed(key, total) end
  redis.call('HSET', key, 'orders', orders + 1)
  if version > newest then
    redis.call('HSET', key, 'newest', version, 'last_purchase', ARGV[4], 'name', ARGV[5], 'email', ARGV[6])
  end
  if version == watermark + 1 then
    local reached = version
    while redis.call('HDEL', key, 'ahead:' .. (reached + 1)) == 1 do reached = reached + 1 end
    redis.call('HSET', key, 'version', reached)
  else
    redis.call('HSET', key, 'ahead:' .. version, '')
  end
  return 1
end

if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end

local applied = 0
for i = 2, #KEYS do
  local result = apply(KEYS[i])
  if type(result) == 'number' then
    applied = applied + result
  elseif i == 2 or not result.err:find('^CORRUPT') then
    return result
  end
end
-- Telling may be forbidden (ACL) without harm to what was counted.
if applied > 0 and ARGV[8] ~= '' then redis.pcall('PUBLISH', ARGV[8], ARGV[7]) end
return applied
