-- Applies events of clients of one partition, all or none of them, in one atomic step in each generation, by the rules of
-- rules/client.rs and rules/sales.rs. First it checks all keys but the shared ones. A script runs alone, so after that only a server
-- that takes no writes fails, and it refuses the first one. A shared key whose write fails is quarantined: see keys.rs.
-- KEYS[1] the partition's fencing token, whose prefix all other keys have; KEYS[2] a key that never exists: see keys.rs
-- ARGV 1 the caller's fencing token; 2 the generations to write, the live one first; 3 the channel for changes, '' for none; 4 how
--   many recent orders of a client are stored; 5 the ids of the clients; then three lists, each after its length:
--   clients: id, newest name, newest e-mail, last purchase (ms) or 0, number of orders, their total, number of events; and of
--     each event, by version: its version, and its entry in the recent orders or ''
--   buckets: page, offsets of revenue and number of orders, expiry of the page (ms) or '', revenue, number of orders
--   product sums: period, product, units, revenue
-- Returns in how many generations the events were applied (0: they had been before), then the keys that were quarantined.
-- Errors, after which that generation is unchanged: STALE: the fencing token has changed. MIXED: only some events had been applied
-- before. CORRUPT: a client's keys or the quarantine are damaged; a single event ignores that in all generations but the first.
local ARGV, call, try, tonumber, format = ARGV, redis.call, redis.pcall, tonumber, string.format

local function corrupt(key, why) return redis.error_reply('CORRUPT ' .. key .. ': ' .. why) end

-- Only a wrong type blames the data. Out of memory, a full disk, a demoted primary and the like can pass.
local function failed(key, reply)
  return reply.err:find('WRONGTYPE', 1, true) and corrupt(key, reply.err) or reply
end

-- A stored count: 0 if missing, nil if it is not a count. Lua's numbers are exact to 15 digits.
local function count(stored)
  if not stored then return 0 end
  if #stored <= 15 and stored:find('^%d+$') then return tonumber(stored) end
end

-- The exact sum of a stored and a given amount as text, nil if one is not an amount or the sum exceeds 64 bits.
local function add(a, b)
  local small = #b <= 15 and count(a)
  if small then return format('%d', small + b) end
  if not (a:find('^%d+$') and b:find('^%d+$')) then return end
  local low = a:sub(-9) + b:sub(-9)
  local high = (tonumber(a:sub(1, -10)) or 0) + (tonumber(b:sub(1, -10)) or 0) + math.floor(low / 1e9)
  local sum = format('%d%09d', high, low % 1e9)
  if #sum < 19 or #sum == 19 and sum <= '9223372036854775807' then return sum end
end

-- Reads a client, whose arguments begin at `at`, and computes its new state unless its events had been applied before. `known` says
-- whether those of the clients before it had been. Returns an error if the stored keys do not allow it.
local function check(generation, at, known)
  local key, after, number = generation .. 'client:' .. ARGV[at], at + 7 + 2 * ARGV[at + 6], nil
  local stored = try('HMGET', key, 'version', 'newest', 'orders', 'total', 'last_purchase')
  if stored.err then return failed(key, stored) end
  local version, newest, orders, last = count(stored[1]), count(stored[2]), count(stored[3]), count(stored[5])
  if not (version and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end
  for event = at + 7, after - 2, 2 do
    number = tonumber(ARGV[event])
    local is_known = number <= version or newest > version and call('HEXISTS', key, 'ahead:' .. ARGV[event]) == 1
    if known == not is_known then return redis.error_reply('MIXED some had been applied before') end
    known = is_known
  end
  if known then return {is_known = true, after = after} end
  if not last then return corrupt(key, 'last_purchase is not a time') end
  local total = add(stored[4] or '0', ARGV[at + 5])
  if not total then return corrupt(key, 'total is not an amount, or overflow') end
  local recent = generation .. 'recent:' .. ARGV[at]
  local length = ARGV[at + 4] == '0' and 0 or try('ZCARD', recent)
  if type(length) == 'table' then return failed(recent, length) end
  local event, closed = at + 7, {}
  while true do
    local next = version + 1
    local is_given = event < after and tonumber(ARGV[event]) == next
    if not is_given and not (newest > version and call('HEXISTS', key, 'ahead:' .. next) == 1) then break end
    if is_given then event = event + 2 else closed[#closed + 1] = 'ahead:' .. next end
    version = next
  end
  return {
    key = key, recent = recent, at = at, after = after, is_known = false, version = format('%d', version), first_ahead = event,
    closed = closed, orders = format('%d', orders + ARGV[at + 4]), total = total, length = length, is_newest = number > newest,
    is_last = tonumber(ARGV[at + 3]) > last, is_first = not stored[5],
  }
end

-- Writes a client. Returns an error if the server takes no writes.
local function write(client)
  local key, at, last = client.key, client.at, client.after - 2
  local more = client.is_newest and {'newest', ARGV[last], 'name', ARGV[at + 1], 'email', ARGV[at + 2]} or {}
  if client.is_last then more[#more + 1], more[#more + 2] = 'last_purchase', ARGV[at + 3] end
  for event = client.first_ahead, last, 2 do more[#more + 1], more[#more + 2] = 'ahead:' .. ARGV[event], '' end
  local written = try('HSET', key, 'orders', client.orders, 'version', client.version, 'total', client.total, unpack(more))
  if type(written) == 'table' then return written end
  for _, field in ipairs(client.closed) do call('HDEL', key, field) end
  -- All recent orders at once, if each event is an order.
  local step = ARGV[at + 4] == ARGV[at + 6] and last - at - 5 or 2
  for event = at + 7, last, step do
    if ARGV[event + 1] ~= '' then call('ZADD', client.recent, unpack(ARGV, event, event + step - 1)) end
  end
  -- Surplus entries are never read, so they are removed only now and then.
  if client.length > ARGV[4] + 16 then call('ZREMRANGEBYRANK', client.recent, 0, -1 - ARGV[4]) end
end

-- Adds to the shared keys that are not quarantined, from the list at `at` on. Appends newly quarantined keys to `found`.
local function write_shared(generation, clients, at, is_quarantined, found)
  local function write_to(name, command, ...)
    if is_quarantined[name] then return end
    local reply = try(command, generation .. name, ...)
    if type(reply) ~= 'table' or not (reply.err or reply[1] == false or reply[2] == false) then return reply end
    call('SADD', generation .. 'quarantine', name)
    is_quarantined[name], found[#found + 1] = true, generation .. name
  end
  local products = at + 1 + 6 * ARGV[at]
  for i = at + 1, products - 6, 6 do
    local sums = write_to(ARGV[i], 'BITFIELD', 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', ARGV[i + 1], ARGV[i + 4], 'INCRBY', 'i64', ARGV[i + 2], ARGV[i + 5])
    local is_new = sums and sums[2] == tonumber(ARGV[i + 5])
    if is_new and ARGV[i + 3] ~= '' then call('PEXPIREAT', generation .. ARGV[i], ARGV[i + 3]) end
  end
  for i = products + 1, products + 4 * ARGV[products], 4 do
    write_to(ARGV[i], 'HINCRBY', ARGV[i + 1] .. ':units', ARGV[i + 2])
    write_to(ARGV[i], 'HINCRBY', ARGV[i + 1] .. ':revenue', ARGV[i + 3])
  end
  local by_total, by_last = {}, {}
  for _, client in ipairs(clients) do
    local id, time = ARGV[client.at], ARGV[client.at + 3]
    by_total[#by_total + 1], by_total[#by_total + 2] = client.total, id
    if client.is_last or client.is_first then by_last[#by_last + 1], by_last[#by_last + 2] = time, id end
  end
  write_to('rank:total', 'ZADD', unpack(by_total))
  if #by_last > 0 then write_to('rank:last', 'ZADD', unpack(by_last)) end
end

-- Returns 1 if the events were applied, 0 if they had been before, or an error.
local function apply(generation, found)
  local clients, at, known = {}, 7, nil
  for i = 1, ARGV[6] do
    local client = check(generation, at, known)
    if client.err then return client end
    clients[i], at, known = client, client.after, client.is_known
  end
  if known then return 0 end
  local names, is_quarantined = try('SMEMBERS', generation .. 'quarantine'), {}
  if names.err then return failed(generation .. 'quarantine', names) end
  for _, name in ipairs(names) do is_quarantined[name] = true end
  for _, client in ipairs(clients) do
    local error = write(client)
    if error then return error end
  end
  write_shared(generation, clients, at, is_quarantined, found)
  return 1
end

if try('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end
local result, error, is_first = {0}, nil, true
local is_single = ARGV[6] == '1' and ARGV[13] == '1'
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
for number in ARGV[2]:gmatch('%d+') do
  local applied = apply(partition .. 'g' .. number .. ':', result)
  if type(applied) == 'number' then
    result[1] = result[1] + applied
  elseif is_first or not is_single or not applied.err:find('^CORRUPT') then
    error = applied
    break
  end
  is_first = false
end
-- An ACL may forbid publishing, without harm to the sums.
if result[1] > 0 and ARGV[3] ~= '' then try('PUBLISH', ARGV[3], ARGV[5]) end
return error or result
