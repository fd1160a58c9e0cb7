-- The clients that follow a place in a ranking of one partition.
-- KEYS[1] the ranking, a sorted set of ids
-- ARGV how many; the rank and the id that they follow, '' and '' for the first ones
-- Returns ids and ranks in turn, with spaces between them, the largest rank first, of equals the largest id as text.
local from = 0
if ARGV[2] ~= '' then
  -- Where those of the same rank begin and end; the place is between them.
  local last = redis.call('ZCOUNT', KEYS[1], ARGV[2], '+inf')
  from = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[2], '+inf')
  while from < last do
    local middle = math.floor((from + last) / 2)
    if redis.call('ZREVRANGE', KEYS[1], middle, middle)[1] >= ARGV[3] then from = middle + 1 else last = middle end
  end
end
return table.concat(redis.call('ZREVRANGE', KEYS[1], from, from + ARGV[1] - 1, 'WITHSCORES'), ' ')
