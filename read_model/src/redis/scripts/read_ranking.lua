-- Reads the clients that follow a position in a ranking of one partition.
-- KEYS[1] the ranking, a sorted set of ids
-- ARGV the number of clients; the rank and the id that they follow, '' and '' for the first ones
-- Returns ids and ranks in turn, separated by spaces: the largest rank first, and among equals the largest id as text.
local ranking, count, rank, id = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local from = 0
if rank ~= '' then
  local found = redis.call('ZREVRANGEBYSCORE', ranking, rank, '-inf', 'WITHSCORES', 'LIMIT', 0, count + 1)
  local first = 1
  while first < #found and tonumber(found[first + 1]) == tonumber(rank) and found[first] >= id do first = first + 2 end
  if first <= 3 or #found < 2 * (count + 1) then
    return table.concat(found, ' ', first, math.min(#found, first + 2 * count - 1))
  end
  -- Many clients have the same rank. The position is between the first and the last of them.
  local last = redis.call('ZCOUNT', ranking, rank, '+inf')
  from = redis.call('ZCOUNT', ranking, '(' .. rank, '+inf')
  while from < last do
    local middle = math.floor((from + last) / 2)
    if redis.call('ZREVRANGE', ranking, middle, middle)[1] >= id then from = middle + 1 else last = middle end
  end
end
return table.concat(redis.call('ZREVRANGE', ranking, from, from + count - 1, 'WITHSCORES'), ' ')
