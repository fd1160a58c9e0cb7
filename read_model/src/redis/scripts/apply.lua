-- Applies events of clients of one partition in one atomic step, in each generation all of them or none, by the rules of
-- rules/. A shared key that cannot be written is quarantined: see keys.rs.
-- All checks come before the first write. Redis runs a script alone, so afterwards only a server that rejects writes (out of
-- memory, read-only) can fail, and it rejects the first write: nothing is half written. (An ACL must allow all these commands.)
-- KEYS[1] the partition's fencing token, whose prefix all other keys have; KEYS[2] a key that is never written: see keys.rs
-- ARGV the caller's fencing token; the numbers of the generations to write, the live one first; how far a version may be above the
--   watermark of the live generation, '' for any; the channel for changes, '' for none; how many recent orders of a client are stored; the ids of the clients, for the channel; the number of clients; then
--   each client: its id, newest name and newest e-mail; the time of its newest order (ms) or 0; the total and the number of its
--     orders; the number of its events; the amount of its cancellations and refunds, and the number of cancellations; the versions of the events in
--     ascending order; the version and the recent entry of each order
--   the number of buckets, and of each: its page; the offsets of its revenue and its number of orders; when the page expires
--     (ms) or ''; the revenue and the number of orders to add
--   the number of product sums, and of each: its period, its field, the amount to add
-- Returns in how many generations the events were applied (0: they had been before), then the keys that were newly quarantined.
-- If a later generation fails after that, its error takes the place of the number.
-- Errors, after which that generation is unchanged: STALE: the fencing token has changed. MIXED: only some events had been
-- applied before. CORRUPT: a client's keys or the quarantine are damaged. AHEAD: a version is too far ahead.
local ARGV, try, tonumber, format = ARGV, redis.pcall, tonumber, string.format
local token, generations, max_ahead, channel, max_recent, ids, client_count = unpack(ARGV, 1, 7)

local GROUP = 512 -- fields that one command reads or deletes at most

local function corrupt(key, why) error('CORRUPT ' .. key .. ': ' .. why, 0) end

-- Runs a command and raises its error. WRONGTYPE means damaged data. Other errors (disk full, failover) are temporary.
local function run(command, key, ...)
  local reply = try(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if reply.err:find('WRONGTYPE', 1, true) then corrupt(key, reply.err) end
  error(reply.err, 0)
end

-- A stored count, 0 if missing. Lua's numbers are exact to 15 digits.
local function count(key, field, stored)
  if not stored then return 0 end
  if #stored > 15 or not stored:find('^%d+$') then corrupt(key, field .. ' is not a count') end
  return tonumber(stored)
end

-- The exact sum of a stored total and an amount, as text.
local function add(key, field, total, amount)
  if not total:find('^%d+$') then corrupt(key, field .. ' is not an amount') end
  if #total <= 15 and #amount <= 15 then return format('%d', total + amount) end
  local low = total:sub(-9) + amount:sub(-9)
  local high = ('0' .. total:sub(1, -10)) + ('0' .. amount:sub(1, -10)) + math.floor(low / 1e9)
  local sum = format('%d%09d', high, low % 1e9)
  if #sum > 19 or #sum == 19 and sum > '9223372036854775807' then corrupt(key, field .. ' exceeds 64 bits') end
  return sum
end

local function append(fields, field, value) fields[#fields + 1], fields[#fields + 2] = field, value end

-- Reads the client whose arguments begin at `at`, and computes its new state. If some of its events are known, returns only how
-- many: then the batch is not applied.
local function check(generation, at, is_live)
  local id, name, email, purchased_at, amount, order_count, event_count, refund, cancelled = unpack(ARGV, at, at + 8)
  local first, orders, after = at + 9, at + 9 + event_count, at + 9 + event_count + 2 * order_count
  local key, recent = generation .. 'client:' .. id, generation .. 'recent:' .. id
  local stored = run('HMGET', key, 'version', 'newest', 'orders', 'total', 'last_purchase', 'refunded')
  local version, newest = count(key, 'version', stored[1]), count(key, 'newest', stored[2])
  local all_orders = count(key, 'orders', stored[3]) + order_count
  local last_version = ARGV[orders - 1]
  if is_live and max_ahead ~= '' and last_version - max_ahead > version then
    local why = 'AHEAD version %s is more than %s above version %d of client %s'
    error(why:format(last_version, max_ahead, version, id), 0)
  end
  -- Whether a version above the watermark is known.
  local function is_ahead(above) return above <= newest and run('HEXISTS', key, 'ahead:' .. above) == 1 end
  local known = 0
  for event = first, orders - 1 do
    local event_version = tonumber(ARGV[event])
    if event_version <= version or is_ahead(event_version) then known = known + 1 end
  end
  if known > 0 then return {events = event_count, known = known, after = after} end

  local closed_gaps, ahead = {}, first
  local field_of, looked_up, group = {}, version, 8
  -- The field of the next version if that is ahead. Looks up groups of versions, which grow: closing a gap may take thousands.
  local function field_ahead(next)
    if next > newest then return false end
    if next > looked_up then
      local names = {}
      for i = 1, group do names[i] = 'ahead:' .. next + i - 1 end
      local found = run('HMGET', key, unpack(names))
      for i = 1, group do field_of[next + i - 1] = found[i] and names[i] end
      looked_up, group = next + group - 1, math.min(2 * group, GROUP)
    end
    return field_of[next]
  end
  while true do
    local is_given = ahead < orders and tonumber(ARGV[ahead]) == version + 1
    local field = not is_given and field_ahead(version + 1)
    if not is_given and not field then break end
    version = version + 1
    if is_given then ahead = ahead + 1 else closed_gaps[#closed_gaps + 1] = field end
  end
  local total = add(key, 'total', stored[4] or '0', amount)
  local refunded = stored[6] and add(key, 'refunded', stored[6], refund) or refund
  local is_newest = tonumber(last_version) > newest
  local is_newest_purchase = tonumber(purchased_at) > count(key, 'last_purchase', stored[5])
  local fields = is_newest and {'newest', last_version, 'name', name, 'email', email} or {}
  if is_newest_purchase then append(fields, 'last_purchase', purchased_at) end
  if refund ~= '0' or cancelled ~= '0' then
    append(fields, 'refunded', refunded)
    append(fields, 'cancelled', format('%d', count(key, 'cancelled', run('HGET', key, 'cancelled')) + cancelled))
  end
  for event = ahead, orders - 1 do append(fields, 'ahead:' .. ARGV[event], '') end
  return {
    id = id, key = key, events = event_count, known = 0, version = format('%d', version), closed_gaps = closed_gaps,
    order_count = format('%d', all_orders), total = total, fields = fields, orders = orders, after = after,
    net = refunded == '0' and total or total - refunded, -- exact to 53 bits, like every score
    last_purchase = is_newest_purchase and purchased_at or stored[5] or 0,
    recent = recent, recent_count = orders < after and run('ZCARD', recent) or 0,
  }
end

local function write(client)
  run('HSET', client.key,
    'orders', client.order_count, 'version', client.version, 'total', client.total, unpack(client.fields))
  local closed = client.closed_gaps
  for i = 1, #closed, GROUP do run('HDEL', client.key, unpack(closed, i, math.min(i + GROUP - 1, #closed))) end
  if client.orders < client.after then run('ZADD', client.recent, unpack(ARGV, client.orders, client.after - 1)) end
  -- Surplus entries are never read, so they are removed only now and then.
  if client.recent_count > max_recent + 16 then run('ZREMRANGEBYRANK', client.recent, 0, -1 - max_recent) end
end

-- Adds to the shared keys that are not quarantined, from the list at `at` on. Appends newly quarantined keys to `found`.
local function write_shared(generation, clients, at, quarantine, found)
  local is_quarantined = {}
  for _, name in ipairs(quarantine) do is_quarantined[name] = true end
  local function write_to(name, command, ...)
    if is_quarantined[name] then return end
    local reply = try(command, generation .. name, ...)
    if type(reply) ~= 'table' or not (reply.err or reply[1] == false or reply[2] == false) then return reply end
    run('SADD', generation .. 'quarantine', name)
    is_quarantined[name], found[#found + 1] = true, generation .. name
  end
  local sums = at + 1 + 6 * ARGV[at]
  for i = at + 1, sums - 6, 6 do
    local page, revenue_offset, orders_offset, expiry, revenue, orders = unpack(ARGV, i, i + 5)
    local added = write_to(page, 'BITFIELD', 'OVERFLOW', 'FAIL',
      'INCRBY', 'i64', revenue_offset, revenue, 'INCRBY', 'i64', orders_offset, orders)
    local is_first = added and added[2] == tonumber(orders)
    if is_first and expiry ~= '' then run('PEXPIREAT', generation .. page, expiry) end
  end
  for i = sums + 1, sums + 3 * ARGV[sums], 3 do write_to(ARGV[i], 'HINCRBY', ARGV[i + 1], ARGV[i + 2]) end
  local by_total, by_last_purchase = {}, {}
  for i, client in ipairs(clients) do
    by_total[2 * i - 1], by_total[2 * i] = client.net, client.id
    by_last_purchase[2 * i - 1], by_last_purchase[2 * i] = client.last_purchase, client.id
  end
  write_to('rank:total', 'ZADD', unpack(by_total))
  write_to('rank:last', 'ZADD', unpack(by_last_purchase))
end

-- Returns 1 if the events were applied, 0 if they had been before. Raises an error if they cannot be applied.
local function apply(generation, is_live, found)
  local clients, at, events, known = {}, 8, 0, 0
  for i = 1, client_count do
    local client = check(generation, at, is_live)
    clients[i], at, events, known = client, client.after, events + client.events, known + client.known
  end
  if known == events then return 0 end
  if known > 0 then error('MIXED some had been applied before', 0) end
  local quarantine = run('SMEMBERS', generation .. 'quarantine')
  for _, client in ipairs(clients) do write(client) end
  write_shared(generation, clients, at, quarantine, found)
  return 1
end

if try('GET', KEYS[1]) ~= token then return redis.error_reply('STALE there are other generations') end
local applied, found, failure, is_live = 0, {}, nil, true
local is_single = client_count == '1' and ARGV[14] == '1' -- one client with one event
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
for number in generations:gmatch('%d+') do
  local is_done, result = pcall(apply, partition .. 'g' .. number .. ':', is_live, found)
  if is_done then
    applied = applied + result
  -- For a single event, CORRUPT in a generation other than the live one is ignored; `projector verify` finds it.
  elseif is_live or not is_single or not result:find('^CORRUPT') then
    failure = redis.error_reply(result)
    break
  end
  is_live = false
end
-- A PUBLISH that an ACL forbids is ignored.
if applied > 0 and channel ~= '' then try('PUBLISH', channel, ids) end
-- The keys must be reported now: they are not newly quarantined when the events are repeated.
if failure and #found == 0 then return failure end
return {failure or applied, unpack(found)}
