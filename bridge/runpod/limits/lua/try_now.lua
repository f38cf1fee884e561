-- try_now: what the gate was closed for has changed here (a new key): the next try need not wait.
-- KEYS 1 prefix
-- ARGV 1 endpoint
-- Returns 1 when there is a gate to try, else 0
local gate = p .. 'gate:' .. ARGV[1]
if not redis.call('HGET', gate, 'reason') then return 0 end
redis.call('HSET', gate, 'next_try', ledger_now(), 'tries', 0)
redis.call('HDEL', gate, 'turn', 'turn_until')
return 1
