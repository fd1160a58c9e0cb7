-- All of a hash as one text: it may have thousands of fields, and to read each as an answer of its own takes ten times as long.
-- KEYS[1] the hash
-- Returns fields and values in turn, with spaces between them.
local all = redis.pcall('HGETALL', KEYS[1])
if all.err then return all end
return table.concat(all, ' ')
