-- Writes a product to the catalogue of its partition, in each generation that has no newer version of it.
-- KEYS[1] the partition's fencing token, whose prefix all other keys have; KEYS[2] a key that is never written: see keys.rs
-- ARGV the caller's fencing token and the generations, as in apply.lua; the product's id, version, price and name
-- Returns in how many generations it was written. The errors are those of apply.lua.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end

local applied, is_first = 0, true
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
for number in ARGV[2]:gmatch('%d+') do
  local key = partition .. 'g' .. number .. ':catalogue'
  local stored = redis.pcall('HGET', key, ARGV[3])
  local version = not stored and 0 or type(stored) == 'string' and tonumber(stored:match('^(%d+) '))
  if not version then
    if type(stored) == 'table' and not stored.err:find('WRONGTYPE', 1, true) then return stored end
    if is_first then return redis.error_reply('CORRUPT ' .. key .. ': the product ' .. ARGV[3]) end
  elseif version < tonumber(ARGV[4]) then
    local put = redis.pcall('HSET', key, ARGV[3], ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
    if type(put) == 'table' then return put end
    applied = applied + 1
  end
  is_first = false
end
return applied
