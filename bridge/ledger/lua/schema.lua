-- schema: the least schema that may work on this ledger, raised by who must not work beside older ones.
-- KEYS 1 prefix
-- ARGV 1 schema of the caller  2 its version
-- Returns {least, version that raised it or ""}; one above the caller's own means that it must not work here.
-- Invariant: the number never falls, and it is the caller's own less one at most, so that the version before may stay.
local known = redis.call('HMGET', p .. 'meta', 'schema', 'schema_by')
local least, mine = tonumber(known[1] or '0'), tonumber(ARGV[1])
local wanted = math.max(1, mine - 1)
if wanted > least then
  redis.call('HSET', p .. 'meta', 'schema', wanted, 'schema_by', ARGV[2])
  return {wanted, ARGV[2]}
end
return {least, known[2] or ''}
