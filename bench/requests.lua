-- A script of wrk: each request reads one client, reads fifty clients, or places an order.
--   wrk … -s requests.lua URL -- KIND TOKEN NUMBER [BODY…]
-- KIND is client, clients, order, busy (all orders of one client), plain (GET /ID, without GraphQL), or body (each BODY in turn).
-- NUMBER is that of the clients, and for body how many milliseconds each connection waits on average before its next request.
local requests, next_request = {}, 0

local queries = {
  client = 'query Client($id: ID!) { client(id: $id) { id name email total { amount currencyCode } orderCount lastPurchase version } }',
  clients = 'query Clients($ids: [ID!]!) { clientsByIds(ids: $ids) { id name total { amount } orderCount } }',
  order = 'mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id total { amount } } clientVersion replayed } }',
}

local function ids(clients, count)
  local list = {}
  for i = 1, count do list[i] = '"' .. math.random(clients) .. '"' end
  return table.concat(list, ',')
end

local function variables(kind, clients)
  if kind == 'client' then return '{"id":' .. ids(clients, 1) .. '}' end
  if kind == 'clients' then return '{"ids":[' .. ids(clients, 50) .. ']}' end
  local client = kind == 'busy' and '"1"' or ids(clients, 1)
  local items = '{"productId":"1","quantity":' .. math.random(5) .. '},{"productId":"2","quantity":' .. math.random(5) .. '}'
  return '{"input":{"clientId":' .. client .. ',"items":[' .. items .. ']}}'
end

function init(args)
  local kind, token, number = args[1], args[2], tonumber(args[3])
  math.randomseed(os.time())
  if kind == 'body' and number > 0 then
    local longest = 2 * number
    delay = function() return math.random(0, longest) end -- called by wrk
  end
  local headers = { ['content-type'] = 'application/json', authorization = 'Bearer ' .. token }
  local query = queries[kind == 'busy' and 'order' or kind]
  for i = 4, #args do requests[i - 3] = wrk.format('POST', '/graphql', headers, args[i]) end
  for i = #requests + 1, kind == 'body' and 0 or 50000 do
    if kind == 'plain' then
      requests[i] = wrk.format('GET', '/' .. math.random(number))
    else
      local body = '{"query":"' .. query .. '","variables":' .. variables(kind, number) .. '}'
      requests[i] = wrk.format('POST', '/graphql', headers, body)
    end
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests":%d,"failed":%d,"seconds":%f,"p50":%d,"p99":%d,"p999":%d}\n',
    summary.requests, failed, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
