-- tidy: ids whose records are gone leave the listing; one bounded walk along it.
-- KEYS 1 prefix
-- ARGV 1 rank to begin at, 0 is the oldest  2 how many are looked at
-- Returns {rank to go on at, 0 after the last one; how many were removed}
-- Invariant: only what has no row is removed (a record is written with its place in the listing: accept).
local key, from, count = p .. 'accepted', tonumber(ARGV[1]), tonumber(ARGV[2])
local ids, gone = redis.call('ZRANGE', key, from, from + count - 1), {}
for _, id in ipairs(ids) do
  if redis.call('EXISTS', p .. 'r:' .. id) == 0 then gone[#gone + 1] = id end
end
if #gone > 0 then redis.call('ZREM', key, unpack(gone)) end
return {#ids < count and 0 or from + count - #gone, #gone}
