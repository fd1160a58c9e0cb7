-- Writes a product to the catalogue of its partition, in each generation that has no newer version of it.
-- KEYS[1] the partition's fencing token, whose prefix all other keys have; KEYS[2] a key that is never written: see keys.rs
-- ARGV the caller's fencing token, the generations and how far the version may be ahead, as in apply.lua; the product's id and
--   version, and its text without the version: see decode.rs
-- Returns in how many generations it was written. The errors are those of apply.lua.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('STALE there are other generations') end

local applied, is_first, max_ahead = 0, true, tonumber(ARGV[3])
local id, new_version, text = unpack(ARGV, 4, 6)
local partition = KEYS[1]:sub(1, -#'fencing_token' - 1)
for number in ARGV[2]:gmatch('%d+') do
  local key = partition .. 'g' .. number .. ':catalogue'
  local stored = redis.pcall('HGET', key, id)
  local version = not stored and 0 or type(stored) == 'string' and tonumber(stored:match('^(%d+) '))
  if not version then
    if type(stored) == 'table' and not stored.err:find('WRONGTYPE', 1, true) then return stored end
    if is_first then return redis.error_reply('CORRUPT ' .. key .. ': the product ' .. id) end
  elseif is_first and max_ahead and new_version - max_ahead > version then
    local why = 'AHEAD version %s is more than %d above version %d of product %s'
    return redis.error_reply(why:format(new_version, max_ahead, version, id))
  elseif version < tonumber(new_version) then
    local put = redis.pcall('HSET', key, id, new_version .. ' ' .. text)
    if type(put) == 'table' then return put end
    applied = applied + 1
  end
  is_first = false
end
return applied
