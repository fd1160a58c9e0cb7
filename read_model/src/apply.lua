-- Applies one event to one client, in one atomic step, in each generation. The rules are those of memory.rs and sales.rs.
-- KEYS[1] the partition's epoch, then the client's hash in each generation, the one that matters first. The other keys of a
-- generation are named as it is, up to `client:`; all are in the same slot.
-- ARGV 1 the epoch that these are of
--   2-6 version, order total, purchase time (ms), name, e-mail
--   7-8 the client's id, and the channel that tells of changes, '' for none
--   9-10 the order in the list of its client, and how many of that are told
--   11-13 the order's id, the order itself, and until when (ms) it is kept; '' where it is not
--   14-15 two periods in which products are counted
--   16 the number of pages that it counts in, then for each: name, cell, until when (ms) it is kept or ''
--   and for each product that was sold: id, pieces, revenue
-- Returns how many were changed: 0 when it had been applied before. The error STALE says that there are other generations
-- by now; CORRUPT that the stored data of the first do not allow it (another is compared before it is read); any other is
-- the server's own. With an error nothing of that generation has changed: what was done is taken back.
local version = tonumber(ARGV[2])
local pages = tonumber(ARGV[16])

local function corrupt(key, why)
  return redis.error_reply('CORRUPT ' .. key .. ': ' .. why)
end

-- Only these name our data as the fault. Out of memory, a full disk, a demoted primary and the like may pass.
local function failed(key, reply)
  for _, fault in ipairs({'WRONGTYPE', 'not an integer', 'not a valid float', 'overflow'}) do
    if reply.err:find(fault, 1, true) then return corrupt(key, reply.err) end
  end
  return reply
end

-- A count as stored, 0 when absent, nil when it is none. Lua's numbers are exact to 15 digits.
local function count(stored)
  if not stored then return 0 end
  if #stored <= 15 and stored:find('^%d+$') then return tonumber(stored) end
end

local function minus(amount)
  return amount == '0' and amount or '-' .. amount
end

-- Returns 1 or 0, or an error.
local function apply(key)
  local stored = redis.pcall('HMGET', key, 'version', 'newest', 'orders', 'ahead:' .. version, 'total')
  if stored.err then return failed(key, stored) end
  local watermark, newest, orders = count(stored[1]), count(stored[2]), count(stored[3])
  if not (watermark and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end

  if version <= watermark or stored[4] then return 0 end

  local generation, id = key:match('^(.*:)client:'), ARGV[7]
  local undo = {}
  local function revert(error)
    for step = #undo, 1, -1 do redis.call(unpack(undo[step])) end
    return error
  end

  -- HINCRBY counts in 64 bits, Lua's numbers only in 53. Returns the sum, or nothing and an error.
  local function add(hash, field, amount)
    local sum = redis.pcall('HINCRBY', hash, field, amount)
    if type(sum) == 'table' then return nil, revert(failed(hash, sum)) end
    undo[#undo + 1] = tostring(sum) == amount and {'HDEL', hash, field} or {'HINCRBY', hash, field, minus(amount)}
    return sum
  end

  -- Small sums are added here, and stored with the rest.
  local before, total, error = count(stored[5])
  local is_small = before and #ARGV[3] <= 15
  if is_small then
    total = string.format('%.0f', before + ARGV[3])
  else
    total, error = add(key, 'total', ARGV[3])
    if error then return error end
  end
  for argument = 17, 14 + 3 * pages, 3 do
    local page, cell = generation .. ARGV[argument], 2 * ARGV[argument + 1]
    local sums = redis.pcall('BITFIELD', page, 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', '#' .. cell, ARGV[3], 'INCRBY', 'i64', '#' .. cell + 1, 1)
    if sums.err then return revert(failed(page, sums)) end
    if sums[1] then undo[#undo + 1] = {'BITFIELD', page, 'INCRBY', 'i64', '#' .. cell, minus(ARGV[3])} end
    if sums[2] then undo[#undo + 1] = {'BITFIELD', page, 'INCRBY', 'i64', '#' .. cell + 1, -1} end
    if not (sums[1] and sums[2]) then return revert(corrupt(page, 'overflow')) end
    if sums[2] == 1 and ARGV[argument + 2] ~= '' then
      local expires = redis.pcall('PEXPIREAT', page, ARGV[argument + 2])
      if type(expires) == 'table' then return revert(failed(page, expires)) end
    end
  end
  for argument = 17 + 3 * pages, #ARGV, 3 do
    for period = 14, 15 do
      for part, name in ipairs({':units', ':revenue'}) do
        local _, error = add(generation .. ARGV[period], ARGV[argument] .. name, ARGV[argument + part])
        if error then return error end
      end
    end
  end

  -- Puts a member into a sorted set where it had no score, or that one. Returns an error.
  local function put(name, score, member, before)
    local set = generation .. name
    local added = redis.pcall('ZADD', set, score, member)
    if type(added) == 'table' then return revert(failed(set, added)) end
    undo[#undo + 1] = before and {'ZADD', set, before, member} or {'ZREM', set, member}
  end
  error = put('recent:' .. id, version, ARGV[9]) or put('rank:total', total, id, stored[5])
  if error then return error end
  if ARGV[12] ~= '' then
    local order = generation .. 'order:' .. ARGV[11]
    local kept = redis.pcall('SET', order, ARGV[12], 'PXAT', ARGV[13])
    if kept.err then return revert(failed(order, kept)) end
    undo[#undo + 1] = {'DEL', order}
  end
  -- Now and then: what is too much is not read.
  if version % 16 == 0 then
    local recent = generation .. 'recent:' .. id
    local cut = redis.pcall('ZREMRANGEBYRANK', recent, 0, -1 - ARGV[10])
    if type(cut) == 'table' then return revert(failed(recent, cut)) end
  end
  -- The last that may fail: so its own score before need not be known.
  error = version > newest and put('rank:last', ARGV[4], id)
  if error then return error end

  -- From here on nothing fails.
  local fields = {'orders', orders + 1}
  local function set(...)
    for _, part in ipairs({...}) do fields[#fields + 1] = part end
  end
  if is_small then set('total', total) end
  if version > newest then set('newest', version, 'last_purchase', ARGV[4], 'name', ARGV[5], 'email', ARGV[6]) end
  if version == watermark + 1 then
    local reached = version
    -- Only where something came ahead is there a gap that may close.
    while newest > reached and redis.call('HDEL', key, 'ahead:' .. (reached + 1)) == 1 do reached = reached + 1 end
    set('version', reached)
  else
    set('ahead:' .. version, '')
  end
  redis.call('HSET', key, unpack(fields))
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
