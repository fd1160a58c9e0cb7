-- Applies some events of clients of one partition, all or none of them, in one atomic step in each generation. The rules are
-- those of memory.rs and sales.rs.
-- KEYS[1] the partition's epoch, and a key that is not there: see redis.rs. The other keys are named as the epoch is, up to
--   `epoch`; all are in the same slot.
-- ARGV 1 the epoch that the generations are of
--   2 the generations, the one that matters first
--   3 the channel that tells of changes, '' for none
--   4 how many orders of a client are told
--   and four lists, each with its length before it:
--   clients: id, newest name, newest e-mail, last purchase (ms) or 0, number of orders, their total, number of events, and for
--     each event, by version: its version, and its order in the list of its client or ''
--   sums of a page: page, cell, until when (ms) the page is kept or '', revenue, number of orders
--   sums of a product: period, product, pieces, revenue
--   orders: id, the order itself, until when (ms) it is kept
-- Returns in how many generations they were applied: 0 when they had been before. The error STALE says that there are other
-- generations by now; MIXED that only some had been applied before; CORRUPT that the stored data do not allow it (of one event
-- alone, only those of the first generation: another is compared before it is read); any other is the server's own. Where
-- there is an error nothing of that generation has changed: what was done is taken back.

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
local function apply(generation)
  local clients, known, at = {}, nil, 6
  for i = 1, ARGV[5] do
    local key, events = generation .. 'client:' .. ARGV[at], tonumber(ARGV[at + 6])
    local fields = {'version', 'newest', 'orders', 'total', 'last_purchase'}
    for event = 1, events do fields[5 + event] = 'ahead:' .. ARGV[at + 5 + 2 * event] end
    local stored = redis.pcall('HMGET', key, unpack(fields))
    if stored.err then return failed(key, stored) end
    local version, newest, orders = count(stored[1]), count(stored[2]), count(stored[3])
    if not (version and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end
    for event = 1, events do
      local is_known = tonumber(ARGV[at + 5 + 2 * event]) <= version or stored[5 + event] ~= false
      if known == not is_known then return redis.error_reply('MIXED some had been applied before') end
      known = is_known
    end
    clients[i] = {
      key = key, at = at, events = events, version = version, newest = newest, orders = orders,
      stored_total = stored[4], stored_last = stored[5],
    }
    at = at + 7 + 2 * events
  end
  if known then return 0 end

  -- What was done: commands that take it back, and how far it got with orders and with the lists of clients.
  local undo, first_order, orders_done, lists_done = {}, nil, 0, 0
  local function revert(error)
    for i = 1, lists_done do
      local at = clients[i].at
      for argument = at + 8, at + 6 + 2 * clients[i].events, 2 do
        if ARGV[argument] ~= '' then redis.call('ZREM', generation .. 'recent:' .. ARGV[at], ARGV[argument]) end
      end
    end
    for order = 0, orders_done - 1 do redis.call('DEL', generation .. 'order:' .. ARGV[first_order + 3 * order]) end
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

  for _ = 1, ARGV[at] do
    local page, cell, revenue, orders = generation .. ARGV[at + 1], 2 * ARGV[at + 2], ARGV[at + 4], ARGV[at + 5]
    local sums = redis.pcall('BITFIELD', page, 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', '#' .. cell, revenue, 'INCRBY', 'i64', '#' .. cell + 1, orders)
    if sums.err then return revert(failed(page, sums)) end
    if sums[1] then undo[#undo + 1] = {'BITFIELD', page, 'INCRBY', 'i64', '#' .. cell, minus(revenue)} end
    if sums[2] then undo[#undo + 1] = {'BITFIELD', page, 'INCRBY', 'i64', '#' .. cell + 1, minus(orders)} end
    if not (sums[1] and sums[2]) then return revert(corrupt(page, 'overflow')) end
    if tostring(sums[2]) == orders and ARGV[at + 3] ~= '' then
      local expires = redis.pcall('PEXPIREAT', page, ARGV[at + 3])
      if type(expires) == 'table' then return revert(failed(page, expires)) end
    end
    at = at + 5
  end
  at = at + 1
  for _ = 1, ARGV[at] do
    local hash, product = generation .. ARGV[at + 1], ARGV[at + 2]
    local _, error = add(hash, product .. ':units', ARGV[at + 3])
    if not error then _, error = add(hash, product .. ':revenue', ARGV[at + 4]) end
    if error then return error end
    at = at + 4
  end
  at = at + 1
  first_order = at + 1
  for order = 1, ARGV[at] do
    local key = generation .. 'order:' .. ARGV[at + 1]
    local kept = redis.pcall('SET', key, ARGV[at + 2], 'PXAT', ARGV[at + 3])
    if kept.err then return revert(failed(key, kept)) end
    orders_done, at = order, at + 3
  end

  -- The rankings, and the lists of clients.
  local by_total, by_last, gone, back = {}, {}, {}, {}
  for i, client in ipairs(clients) do
    local at, id = client.at, ARGV[client.at]
    -- Small sums are added here, and stored with the rest.
    local before, total, error = count(client.stored_total)
    if before and #ARGV[at + 5] <= 15 then
      client.total = string.format('%.0f', before + ARGV[at + 5])
      total = client.total
    else
      total, error = add(client.key, 'total', ARGV[at + 5])
      if error then return error end
    end
    by_total[#by_total + 1] = total
    by_total[#by_total + 1] = id
    if client.stored_total then
      back[#back + 1] = client.stored_total
      back[#back + 1] = id
    else
      gone[#gone + 1] = id
    end
    local last = tonumber(ARGV[at + 3])
    local stored_last = count(client.stored_last)
    if not stored_last then return revert(corrupt(client.key, 'last_purchase is not a time')) end
    if last > stored_last then client.last = ARGV[at + 3] end
    if client.last or not client.stored_last then
      by_last[#by_last + 1] = ARGV[at + 3]
      by_last[#by_last + 1] = id
    end
    local set = generation .. 'recent:' .. id
    for argument = at + 7, at + 5 + 2 * client.events, 2 do
      if ARGV[argument + 1] ~= '' then
        local added = redis.pcall('ZADD', set, ARGV[argument], ARGV[argument + 1])
        if type(added) == 'table' then return revert(failed(set, added)) end
        lists_done = i
        -- Now and then what is too much, and not read, is cut.
        client.is_long = client.is_long or ARGV[argument] % 16 == 0
      end
    end
  end
  local set = generation .. 'rank:total'
  local ranked = redis.pcall('ZADD', set, unpack(by_total))
  if type(ranked) == 'table' then return revert(failed(set, ranked)) end
  if #gone > 0 then undo[#undo + 1] = {'ZREM', set, unpack(gone)} end
  if #back > 0 then undo[#undo + 1] = {'ZADD', set, unpack(back)} end
  -- The last that may fail: so its own scores before need not be known.
  if #by_last > 0 then
    set = generation .. 'rank:last'
    ranked = redis.pcall('ZADD', set, unpack(by_last))
    if type(ranked) == 'table' then return revert(failed(set, ranked)) end
  end

  -- From here on nothing fails.
  for _, client in ipairs(clients) do
    local at, reached, event = client.at, client.version, 1
    repeat
      local before = reached
      if event <= client.events and tonumber(ARGV[at + 5 + 2 * event]) == reached + 1 then
        reached, event = reached + 1, event + 1
      -- Only where something came ahead is there a gap that may close.
      elseif client.newest > reached and redis.call('HDEL', client.key, 'ahead:' .. (reached + 1)) == 1 then
        reached = reached + 1
      end
    until reached == before
    local fields = {'orders', client.orders + ARGV[at + 4], 'version', reached}
    local function put(field, value)
      fields[#fields + 1] = field
      fields[#fields + 1] = value
    end
    if client.total then put('total', client.total) end
    if client.last then put('last_purchase', client.last) end
    local newest = ARGV[at + 5 + 2 * client.events]
    if tonumber(newest) > client.newest then
      put('newest', newest)
      put('name', ARGV[at + 1])
      put('email', ARGV[at + 2])
    end
    for ahead = event, client.events do put('ahead:' .. ARGV[at + 5 + 2 * ahead], '') end
    redis.call('HSET', client.key, unpack(fields))
    if client.is_long then redis.call('ZREMRANGEBYRANK', generation .. 'recent:' .. ARGV[at], 0, -1 - ARGV[4]) end
  end
  return 1
end

if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end

local applied, error, is_first = 0, nil, true
local is_alone = ARGV[5] == '1' and ARGV[12] == '1'
local partition = KEYS[1]:match('^(.*:)epoch$')
for number in ARGV[2]:gmatch('%d+') do
  local result = apply(partition .. 'g' .. number .. ':')
  if type(result) == 'number' then
    applied = applied + result
  elseif is_first or not is_alone or not result.err:find('^CORRUPT') then
    error = result
    break
  end
  is_first = false
end
if applied > 0 and ARGV[3] ~= '' then
  local ids, at = {}, 6
  for i = 1, ARGV[5] do
    ids[i], at = ARGV[at], at + 7 + 2 * ARGV[at + 6]
  end
  -- Telling may be forbidden (ACL) without harm to what was counted.
  redis.pcall('PUBLISH', ARGV[3], table.concat(ids, ' '))
end
return error or applied
