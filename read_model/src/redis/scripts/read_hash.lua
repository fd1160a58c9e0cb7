-- Reads a hash as one text. It may have thousands of fields, and one text is parsed ten times as fast as a value for each field.
-- KEYS[1] the hash
-- Returns fields and values in turn, separated by spaces.
local all = redis.pcall('HGETALL', KEYS[1])
if all.err then return all end
return table.concat(all, ' ')
