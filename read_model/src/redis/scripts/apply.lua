-- Applies some events of clients of one partition, all or none of them, in one atomic step in each generation. The rules are
-- those of memory.rs and sales.rs.
-- KEYS[1] the partition's fencing_token, and a key that is not there: see redis.rs. The other keys are named as the fencing_token is, up to
--   `fencing_token`; all are in the same slot.
-- ARGV 1 the fencing_token that the generations are of
--   2 the generations, the one that matters first
--   3 the channel that tells of changes, '' for none
--   4 how many orders of a client are told
--   and four lists, each with its length before it:
--   clients: id, newest name, newest e-mail, last purchase (ms) or 0, number of orders, their total, number of events, and for
--     each event, by version: its version, and its order in the list of its client or ''
--   sums of a page: page, the cells of revenue and of number of orders, until when (ms) the page is kept or '', revenue,
--     number of orders
--   sums of a product: period, product, pieces, revenue
--   orders: id, the order itself, until when (ms) it is kept
-- Returns in how many generations they were applied: 0 when they had been before. The error STALE says that there are other
-- generations by now; MIXED that only some had been applied before; CORRUPT that the stored data do not allow it (of one event
-- alone, only those of the first generation: another is compared before it is read); any other is the server's own. Where
-- there is an error nothing of that generation has changed: what was done is taken back.

-- `try` returns an error of the server where `call` ends the script.
local ARGV, call, try, tonumber, format = ARGV, redis.call, redis.pcall, tonumber, string.format

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

-- A sum that is 0 need not be there.
local function subtract(hash, field, amount)
  if call('HINCRBY', hash, field, minus(amount)) == 0 then call('HDEL', hash, field) end
end

-- Returns 1 or 0, or an error.
local function apply(generation)
  local clients, known, at = {}, nil, 6
  for i = 1, ARGV[5] do
    local key, events = generation .. 'client:' .. ARGV[at], tonumber(ARGV[at + 6])
    local stored = try('HMGET', key, 'version', 'newest', 'orders', 'total', 'last_purchase')
    if stored.err then return failed(key, stored) end
    local version, newest, orders, last = count(stored[1]), count(stored[2]), count(stored[3]), count(stored[5])
    if not (version and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end
    local number
    for argument = at + 7, at + 5 + 2 * events, 2 do
      number = tonumber(ARGV[argument])
      -- Only where something came ahead is `newest` above the version.
      local is_known = number <= version
        or newest > version and call('HEXISTS', key, 'ahead:' .. ARGV[argument]) == 1
      if known == not is_known then return redis.error_reply('MIXED some had been applied before') end
      known = is_known
    end
    clients[i] = {
      key = key, at = at, events = events, version = version, newest = newest, orders = orders, last = last,
      number = number, bought = tonumber(ARGV[at + 3]), stored_total = stored[4], stored_last = stored[5],
    }
    at = at + 7 + 2 * events
  end
  if known then return 0 end
  for _, client in ipairs(clients) do
    if not client.last then return corrupt(client.key, 'last_purchase is not a time') end
  end

  -- To take back what was done: how far it got with each list.
  local first_page, first_sold, first_order = at + 1, nil, nil
  local pages_done, sold_done, orders_done, clients_done, is_ranked = 0, 0, 0, 0, false
  local function revert(error)
    for i = 1, clients_done do
      local client, at = clients[i], clients[i].at
      local id = ARGV[at]
      if is_ranked and client.stored_total then call('ZADD', generation .. 'rank:total', client.stored_total, id) end
      if is_ranked and not client.stored_total then call('ZREM', generation .. 'rank:total', id) end
      for argument = at + 8, at + 6 + 2 * client.events, 2 do
        if ARGV[argument] ~= '' then try('ZREM', generation .. 'recent:' .. id, ARGV[argument]) end
      end
      if client.is_added and client.stored_total then call('HSET', client.key, 'total', client.stored_total) end
      if client.is_added and not client.stored_total then call('HDEL', client.key, 'total') end
    end
    for order = 0, orders_done - 1 do call('DEL', generation .. 'order:' .. ARGV[first_order + 3 * order]) end
    for sold = 0, sold_done - 1 do
      local at = first_sold + 4 * sold
      local hash, product = generation .. ARGV[at], ARGV[at + 1]
      subtract(hash, product .. ':units', ARGV[at + 2])
      subtract(hash, product .. ':revenue', ARGV[at + 3])
    end
    for page = 0, pages_done - 1 do
      local at = first_page + 6 * page
      call('BITFIELD', generation .. ARGV[at], 'INCRBY', 'i64', ARGV[at + 1], minus(ARGV[at + 4]),
        'INCRBY', 'i64', ARGV[at + 2], minus(ARGV[at + 5]))
    end
    return error
  end

  for page = 1, ARGV[at] do
    local key, revenue, orders = generation .. ARGV[at + 1], ARGV[at + 5], ARGV[at + 6]
    local sums = try('BITFIELD', key, 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', ARGV[at + 2], revenue, 'INCRBY', 'i64', ARGV[at + 3], orders)
    if sums.err then return revert(failed(key, sums)) end
    if not (sums[1] and sums[2]) then
      if sums[1] then call('BITFIELD', key, 'INCRBY', 'i64', ARGV[at + 2], minus(revenue)) end
      if sums[2] then call('BITFIELD', key, 'INCRBY', 'i64', ARGV[at + 3], minus(orders)) end
      return revert(corrupt(key, 'overflow'))
    end
    pages_done = page
    if sums[2] == tonumber(orders) and ARGV[at + 4] ~= '' then
      local expires = try('PEXPIREAT', key, ARGV[at + 4])
      if type(expires) == 'table' then return revert(failed(key, expires)) end
    end
    at = at + 6
  end
  at = at + 1
  first_sold = at + 1
  for sold = 1, ARGV[at] do
    local hash, product = generation .. ARGV[at + 1], ARGV[at + 2]
    local sum = try('HINCRBY', hash, product .. ':units', ARGV[at + 3])
    if type(sum) == 'table' then return revert(failed(hash, sum)) end
    sum = try('HINCRBY', hash, product .. ':revenue', ARGV[at + 4])
    if type(sum) == 'table' then
      subtract(hash, product .. ':units', ARGV[at + 3])
      return revert(failed(hash, sum))
    end
    sold_done, at = sold, at + 4
  end
  at = at + 1
  first_order = at + 1
  for order = 1, ARGV[at] do
    local key = generation .. 'order:' .. ARGV[at + 1]
    local kept = try('SET', key, ARGV[at + 2], 'PXAT', ARGV[at + 3])
    if kept.err then return revert(failed(key, kept)) end
    orders_done, at = order, at + 3
  end

  -- The rankings, and the lists of clients.
  local by_total, by_last = {}, {}
  for i, client in ipairs(clients) do
    local at, id, amount = client.at, ARGV[client.at], ARGV[client.at + 5]
    clients_done = i
    -- HINCRBY counts in 64 bits, Lua's numbers only in 53. Small sums are added here, and stored with the rest.
    local total = count(client.stored_total)
    if total and #amount <= 15 then
      client.total = format('%d', total + amount)
    else
      local sum = try('HINCRBY', client.key, 'total', amount)
      if type(sum) == 'table' then return revert(failed(client.key, sum)) end
      client.is_added, client.total = true, call('HGET', client.key, 'total')
    end
    by_total[2 * i - 1] = client.total
    by_total[2 * i] = id
    if client.bought > client.last or not client.stored_last then
      by_last[#by_last + 1] = ARGV[at + 3]
      by_last[#by_last + 1] = id
    end
    local set = generation .. 'recent:' .. id
    -- All at once, where each is an order.
    local step = ARGV[at + 4] == ARGV[at + 6] and 2 * client.events or 2
    for event = at + 7, at + 5 + 2 * client.events, step do
      if ARGV[event + 1] ~= '' then
        local added = try('ZADD', set, unpack(ARGV, event, event + step - 1))
        if type(added) == 'table' then return revert(failed(set, added)) end
      end
    end
  end
  local set = generation .. 'rank:total'
  local ranked = try('ZADD', set, unpack(by_total))
  if type(ranked) == 'table' then return revert(failed(set, ranked)) end
  is_ranked = true
  if #by_last > 0 then
    set = generation .. 'rank:last'
    ranked = try('ZADD', set, unpack(by_last))
    if type(ranked) == 'table' then return revert(failed(set, ranked)) end
  end

  -- From here on nothing fails.
  for _, client in ipairs(clients) do
    local key, at, reached, event = client.key, client.at, client.version, 1
    repeat
      local before = reached
      if event <= client.events and tonumber(ARGV[at + 5 + 2 * event]) == reached + 1 then
        reached, event = reached + 1, event + 1
      elseif client.newest > reached and call('HDEL', key, 'ahead:' .. (reached + 1)) == 1 then
        reached = reached + 1
      end
    until reached == before
    local orders, version = format('%d', client.orders + ARGV[at + 4]), format('%d', reached)
    local newest, name, email = ARGV[at + 5 + 2 * client.events], ARGV[at + 1], ARGV[at + 2]
    local is_last, is_newest = client.bought > client.last, client.number > client.newest
    if is_last and is_newest then
      call('HSET', key, 'orders', orders, 'version', version, 'total', client.total, 'last_purchase', ARGV[at + 3],
        'newest', newest, 'name', name, 'email', email)
    else
      call('HSET', key, 'orders', orders, 'version', version, 'total', client.total)
      if is_last then call('HSET', key, 'last_purchase', ARGV[at + 3]) end
      if is_newest then call('HSET', key, 'newest', newest, 'name', name, 'email', email) end
    end
    for ahead = event, client.events do call('HSET', key, 'ahead:' .. ARGV[at + 5 + 2 * ahead], '') end
    -- Now and then what is too much, and not read, is cut.
    if math.floor(client.number / 16) > math.floor(client.newest / 16) then
      call('ZREMRANGEBYRANK', generation .. 'recent:' .. ARGV[at], 0, -1 - ARGV[4])
    end
  end
  return 1
end

if try('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end

local applied, error, is_first = 0, nil, true
local is_alone = ARGV[5] == '1' and ARGV[12] == '1'
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
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
  try('PUBLISH', ARGV[3], table.concat(ids, ' '))
end
return error or applied
