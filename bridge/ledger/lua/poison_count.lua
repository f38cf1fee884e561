-- poison_count: a process begins to work on one of the records it has claimed, or has survived that.
-- KEYS 1 prefix
-- ARGV 1 token  2 id  3 begins or survived
-- Returns 1, or 0 where the token no longer holds the record, which is then left alone (fencing of intents).
-- For a step whose records are claimed many at once and worked one by one, for minutes (submit_batch): a process that dies
-- speaks against the one record that it was working on, and not against all that it held (HARDENING 14; `claim` counts
-- for the other steps).
local row = p .. 'r:' .. ARGV[2]
if redis.call('HGET', row, 'lt') ~= ARGV[1] then return 0 end
if ARGV[3] == 'begins' then redis.call('HINCRBY', row, 'cl', 1) else redis.call('HSET', row, 'cl', 0) end
return 1
