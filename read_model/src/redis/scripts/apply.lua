-- Applies events of clients of one partition in one atomic step, in each generation all of them or none, by the rules of
-- rules/client.rs and rules/sales.rs. A shared key that cannot be written is quarantined: see keys.rs.
-- All checks come before the first write. Redis runs a script alone, so afterwards only a server that rejects writes (out of
-- memory, read-only) can fail, and it rejects the first write: nothing is half written.
-- KEYS[1] the partition's fencing token, whose prefix all other keys have
-- KEYS[2] a key that is never written: see keys.rs
local TOKEN = 1 -- the caller's fencing token
local GENERATIONS = 2 -- the numbers of the generations to write, the live one first
local CHANNEL = 3 -- the channel for changes, '' for none
local RECENT_ORDERS = 4 -- how many recent orders of a client are stored
local IDS = 5 -- the ids of the clients, for the channel
local CLIENT_COUNT = 6 -- the number of clients in the following list
local CLIENTS = 7 -- for each client its id, followed at these offsets by:
local NAME, EMAIL = 1, 2 -- the newest name and e-mail
local LAST_PURCHASE = 3 -- the time of the newest order (ms), or 0
local ORDER_COUNT, TOTAL = 4, 5 -- the number of orders and their total
local EVENT_COUNT, EVENTS = 6, 7 -- the number of events; then, by version, each version and its entry in the recent orders or ''
-- Two more lists follow, each after its length:
--   buckets: page, offset of its revenue, offset of its number of orders, expiry of the page (ms) or '', revenue, number of orders
--   product sums: period, product, units, revenue
-- Returns in how many generations the events were applied (0: they had been before), then the keys that were newly quarantined.
-- If a later generation fails after that, its error takes the place of the number.
-- Errors, after which that generation is unchanged: STALE: the fencing token has changed. MIXED: only some events had been applied
-- before. CORRUPT: a client's keys or the quarantine are damaged.
local ARGV, call, try, tonumber, format = ARGV, redis.call, redis.pcall, tonumber, string.format

local function corrupt(key, why) return redis.error_reply('CORRUPT ' .. key .. ': ' .. why) end

-- WRONGTYPE means damaged data. Other errors (out of memory, disk full, failover) are temporary.
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

-- Reads the client whose arguments begin at `at`, and computes its new state unless its events had been applied before. `known` is
-- whether those of the clients before it had been, nil for the first client. Returns an error if the stored keys do not allow it.
local function check(generation, at, known)
  local key, after = generation .. 'client:' .. ARGV[at], at + EVENTS + 2 * ARGV[at + EVENT_COUNT]
  local stored = try('HMGET', key, 'version', 'newest', 'orders', 'total', 'last_purchase')
  if stored.err then return failed(key, stored) end
  local version, newest, orders, last = count(stored[1]), count(stored[2]), count(stored[3]), count(stored[5])
  if not (version and newest and orders) then return corrupt(key, 'version, newest or orders is not a count') end
  for event = at + EVENTS, after - 2, 2 do
    local is_known = tonumber(ARGV[event]) <= version
      or newest > version and call('HEXISTS', key, 'ahead:' .. ARGV[event]) == 1
    if known ~= nil and known ~= is_known then return redis.error_reply('MIXED some had been applied before') end
    known = is_known
  end
  if known then return {is_known = true, after = after} end
  if not last then return corrupt(key, 'last_purchase is not a time') end
  local total = add(stored[4] or '0', ARGV[at + TOTAL])
  if not total then return corrupt(key, 'total is not an amount, or overflow') end
  local recent = generation .. 'recent:' .. ARGV[at]
  local length = ARGV[at + ORDER_COUNT] == '0' and 0 or try('ZCARD', recent)
  if type(length) == 'table' then return failed(recent, length) end
  local event, closed_gaps = at + EVENTS, {}
  while true do
    local following = version + 1
    local is_given = event < after and tonumber(ARGV[event]) == following
    if not is_given and not (newest > version and call('HEXISTS', key, 'ahead:' .. following) == 1) then break end
    if is_given then event = event + 2 else closed_gaps[#closed_gaps + 1] = 'ahead:' .. following end
    version = following
  end
  return {
    key = key, recent = recent, at = at, after = after, is_known = false, version = format('%d', version), first_ahead = event,
    closed_gaps = closed_gaps, orders = format('%d', orders + ARGV[at + ORDER_COUNT]), total = total, length = length,
    is_newest = tonumber(ARGV[after - 2]) > newest, is_newest_purchase = tonumber(ARGV[at + LAST_PURCHASE]) > last,
    never_bought = not stored[5],
  }
end

-- Writes a client. Returns an error if the server rejects writes.
local function write(client)
  local key, at, first, last = client.key, client.at, client.at + EVENTS, client.after - 2
  local extra_fields = client.is_newest and {'newest', ARGV[last], 'name', ARGV[at + NAME], 'email', ARGV[at + EMAIL]} or {}
  if client.is_newest_purchase then
    extra_fields[#extra_fields + 1], extra_fields[#extra_fields + 2] = 'last_purchase', ARGV[at + LAST_PURCHASE]
  end
  for event = client.first_ahead, last, 2 do
    extra_fields[#extra_fields + 1], extra_fields[#extra_fields + 2] = 'ahead:' .. ARGV[event], ''
  end
  local written = try('HSET', key, 'orders', client.orders, 'version', client.version, 'total', client.total, unpack(extra_fields))
  if type(written) == 'table' then return written end
  for _, field in ipairs(client.closed_gaps) do call('HDEL', key, field) end
  if ARGV[at + ORDER_COUNT] == ARGV[at + EVENT_COUNT] then
    call('ZADD', client.recent, unpack(ARGV, first, last + 1))
  else
    for event = first, last, 2 do
      if ARGV[event + 1] ~= '' then call('ZADD', client.recent, ARGV[event], ARGV[event + 1]) end
    end
  end
  -- Surplus entries are never read, so they are removed only now and then.
  if client.length > ARGV[RECENT_ORDERS] + 16 then call('ZREMRANGEBYRANK', client.recent, 0, -1 - ARGV[RECENT_ORDERS]) end
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
    local id, time = ARGV[client.at], ARGV[client.at + LAST_PURCHASE]
    by_total[#by_total + 1], by_total[#by_total + 2] = client.total, id
    if client.is_newest_purchase or client.never_bought then by_last[#by_last + 1], by_last[#by_last + 2] = time, id end
  end
  write_to('rank:total', 'ZADD', unpack(by_total))
  if #by_last > 0 then write_to('rank:last', 'ZADD', unpack(by_last)) end
end

-- Returns 1 if the events were applied, 0 if they had been before, or an error.
local function apply(generation, found)
  local clients, at, known = {}, CLIENTS, nil
  for i = 1, ARGV[CLIENT_COUNT] do
    local client = check(generation, at, known)
    if client.err then return client end
    clients[i], at, known = client, client.after, client.is_known
  end
  if known then return 0 end
  local names, is_quarantined = try('SMEMBERS', generation .. 'quarantine'), {}
  if names.err then return failed(generation .. 'quarantine', names) end
  for _, name in ipairs(names) do is_quarantined[name] = true end
  for _, client in ipairs(clients) do
    local failure = write(client)
    if failure then return failure end
  end
  write_shared(generation, clients, at, is_quarantined, found)
  return 1
end

if try('GET', KEYS[1]) ~= ARGV[TOKEN] then return redis.error_reply('STALE there are other generations') end
local applied, found, failure, is_first = 0, {}, nil, true
local is_single = ARGV[CLIENT_COUNT] == '1' and ARGV[CLIENTS + EVENT_COUNT] == '1'
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
for generation in ARGV[GENERATIONS]:gmatch('%d+') do
  local result = apply(partition .. 'g' .. generation .. ':', found)
  if type(result) == 'number' then
    applied = applied + result
  -- For a single event, CORRUPT in a generation other than the live one is ignored; `projector verify` finds it.
  elseif is_first or not is_single or not result.err:find('^CORRUPT') then
    failure = result
    break
  end
  is_first = false
end
-- A PUBLISH that an ACL forbids is ignored.
if applied > 0 and ARGV[CHANNEL] ~= '' then try('PUBLISH', ARGV[CHANNEL], ARGV[IDS]) end
-- The keys must be reported now: they are not newly quarantined when the events are repeated.
if failure and #found == 0 then return failure end
return {failure or applied, unpack(found)}
