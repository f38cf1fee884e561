-- orphan: take jobs of ended requests that may still run; each comes again when its lease ends.
-- KEYS 1 prefix
-- ARGV 1 how many at most  2 lease in ms
-- Returns {now, member, ...}
local now = ledger_now()
local found = redis.call('ZRANGE', p .. 'stray', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, member in ipairs(found) do redis.call('ZADD', p .. 'stray', now + tonumber(ARGV[2]), member) end
table.insert(found, 1, now)
return found
