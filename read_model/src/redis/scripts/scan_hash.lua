-- Reads a part of a hash as one text, which is parsed ten times as fast as a value for each field. A hash may have a hundred
-- thousand fields, and Redis would serve nobody else while it returned them all.
-- KEYS[1] the hash
-- ARGV[1] the cursor: 0, or that of the part before
-- ARGV[2] the number of fields, roughly
-- Returns the cursor of the next part, or 0, then fields and values in turn, separated by spaces. While the hash grows, a field may
-- be in two parts.
local part = redis.pcall('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
if part.err then return part end
return {part[1], table.concat(part[2], ' ')}
