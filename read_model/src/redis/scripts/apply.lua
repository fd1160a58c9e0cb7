-- Applies events of clients of one partition, all or none of them, in one atomic step in each generation, by the rules of
-- rules/client.rs and rules/sales.rs. The clients' keys are checked before the first write. A script runs alone, so after that only
-- a server that takes no writes fails, and it refuses the first one. A shared key whose write fails is quarantined: see keys.rs.
-- KEYS[1] the partition's fencing token, whose prefix all other keys have; KEYS[2] a key that never exists: see keys.rs
-- ARGV 1 the caller's fencing token; 2 the generations to write, the live one first; 3 the channel for changes, '' for none; 4 how
--   many recent orders of a client are stored; 5 the ids of the clients; then three lists, each after its length:
--   clients: id, newest name, newest e-mail, last purchase (ms) or 0, number of orders, their total, number of events; and of
--     each event, by version: its version, and its entry in the recent orders or ''
--   buckets: page, offsets of revenue and number of orders, expiry of the page (ms) or '', revenue, number of orders
--   product sums: period, product, units, revenue
-- Returns in how many generations the events were applied (0: they had been before), then the keys that were quarantined.
-- Errors, after which that generation is unchanged: STALE: the fencing token has changed. MIXED: only some events had been applied
-- before. CORRUPT: a client's keys are damaged; a single event ignores that in all generations but the first.
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

-- Reads the clients. Returns them, whether their events had been applied before, and where the next list begins; or an error.
local function read(generation)
  local clients, known, at = {}, nil, 7
  for i = 1, ARGV[6] do
    local key, events, number = generation .. 'client:' .. ARGV[at], tonumber(ARGV[at + 6]), nil
    local stored = try('HMGET', key, 'version', 'newest', 'orders', 'total', 'last_purchase')
    if stored.err then return failed(key, stored) end
    local version, newest, orders = count(stored[1]), count(stored[2]), count(stored[3])
    if not (version and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end
    for argument = at + 7, at + 5 + 2 * events, 2 do
      number = tonumber(ARGV[argument])
      local is_known = number <= version
        or newest > version and call('HEXISTS', key, 'ahead:' .. ARGV[argument]) == 1
      if known == not is_known then return redis.error_reply('MIXED some had been applied before') end
      known = is_known
    end
    clients[i] = {
      key = key, recent = generation .. 'recent:' .. ARGV[at], at = at, events = events, version = version, newest = newest,
      orders = orders, total = stored[4] or '0', last = stored[5], is_newest = number > newest,
    }
    at = at + 7 + 2 * events
  end
  return clients, known, at
end

-- Computes the new state of a client. Returns an error if the stored state does not allow it.
local function compute(client)
  local key, at, event = client.key, client.at, 1
  local last, bought = count(client.last), tonumber(ARGV[at + 3])
  if not last then return corrupt(key, 'last_purchase is not a time') end
  client.is_last, client.is_first = bought > last, not client.last
  client.total = add(client.total, ARGV[at + 5])
  if not client.total then return corrupt(key, 'total is not an amount, or overflow') end
  client.length = ARGV[at + 4] == '0' and 0 or try('ZCARD', client.recent)
  if type(client.length) == 'table' then return failed(client.recent, client.length) end
  local next, closed = client.version + 1, {}
  while true do
    if event <= client.events and tonumber(ARGV[at + 5 + 2 * event]) == next then
      event = event + 1
    elseif client.newest >= next and call('HEXISTS', key, 'ahead:' .. next) == 1 then
      closed[#closed + 1] = 'ahead:' .. next
    else
      break
    end
    next = next + 1
  end
  client.reached, client.closed, client.first_ahead = format('%d', next - 1), closed, event
end

-- Writes a client. Returns an error if the server takes no writes.
local function write(client)
  local key, at, last = client.key, client.at, client.at + 5 + 2 * client.events
  local more = client.is_newest and {'newest', ARGV[last], 'name', ARGV[at + 1], 'email', ARGV[at + 2]} or {}
  if client.is_last then more[#more + 1], more[#more + 2] = 'last_purchase', ARGV[at + 3] end
  for ahead = at + 5 + 2 * client.first_ahead, last, 2 do more[#more + 1], more[#more + 2] = 'ahead:' .. ARGV[ahead], '' end
  local orders = format('%d', client.orders + ARGV[at + 4])
  local written = try('HSET', key, 'orders', orders, 'version', client.reached, 'total', client.total, unpack(more))
  if type(written) == 'table' then return written end
  for _, field in ipairs(client.closed) do call('HDEL', key, field) end
  -- All recent orders at once, if each event is an order.
  local step = ARGV[at + 4] == ARGV[at + 6] and 2 * client.events or 2
  for event = at + 7, last, step do
    if ARGV[event + 1] ~= '' then call('ZADD', client.recent, unpack(ARGV, event, event + step - 1)) end
  end
  -- Surplus entries are never read, so they are removed only now and then.
  if client.length > ARGV[4] + 16 then call('ZREMRANGEBYRANK', client.recent, 0, -1 - ARGV[4]) end
end

-- Adds to the shared keys, from the list at `at` on. Appends the keys that are quarantined to `found`.
local function write_shared(generation, clients, at, found)
  local quarantine, is_damaged, by_total, by_last = generation .. 'quarantine', {}, {}, {}
  for _, name in ipairs(call('SMEMBERS', quarantine)) do is_damaged[name] = true end
  local function write_to(name, command, ...)
    if is_damaged[name] then return end
    local reply = try(command, generation .. name, ...)
    if type(reply) ~= 'table' or not (reply.err or reply[1] == false or reply[2] == false) then return reply end
    call('SADD', quarantine, name)
    is_damaged[name], found[#found + 1] = true, generation .. name
  end
  -- Calls `each` with the index before each entry of the next list.
  local function list(width, each)
    local length = tonumber(ARGV[at])
    for entry = at, at + width * (length - 1), width do each(entry) end
    at = at + width * length + 1
  end
  list(6, function(i)
    local sums = write_to(ARGV[i + 1], 'BITFIELD', 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', ARGV[i + 2], ARGV[i + 5], 'INCRBY', 'i64', ARGV[i + 3], ARGV[i + 6])
    local is_new = sums and sums[2] == tonumber(ARGV[i + 6])
    if is_new and ARGV[i + 4] ~= '' then call('PEXPIREAT', generation .. ARGV[i + 1], ARGV[i + 4]) end
  end)
  list(4, function(i)
    write_to(ARGV[i + 1], 'HINCRBY', ARGV[i + 2] .. ':units', ARGV[i + 3])
    write_to(ARGV[i + 1], 'HINCRBY', ARGV[i + 2] .. ':revenue', ARGV[i + 4])
  end)
  for i, client in ipairs(clients) do
    by_total[2 * i - 1], by_total[2 * i] = client.total, ARGV[client.at]
    if client.is_last or client.is_first then
      by_last[#by_last + 1], by_last[#by_last + 2] = ARGV[client.at + 3], ARGV[client.at]
    end
  end
  write_to('rank:total', 'ZADD', unpack(by_total))
  if #by_last > 0 then write_to('rank:last', 'ZADD', unpack(by_last)) end
end

-- Returns 1 if the events were applied, 0 if they had been before, or an error.
local function apply(generation, found)
  local clients, known, at = read(generation)
  if clients.err then return clients end
  if known then return 0 end
  for _, step in ipairs({compute, write}) do
    for _, client in ipairs(clients) do
      local error = step(client)
      if error then return error end
    end
  end
  write_shared(generation, clients, at, found)
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
