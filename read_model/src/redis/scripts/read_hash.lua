-- Reads a hash as one text: it may have thousands of fields, and parsing each as a value of its own takes ten times as long.
-- KEYS[1] the hash
-- Returns fields and values in turn, separated by spaces.
local all = redis.pcall('HGETALL', KEYS[1])
if all.err then return all end
return table.concat(all, ' ')
