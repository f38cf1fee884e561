-- succeeded: a call to the endpoint was answered with success: remember that, and open its gate.
-- KEYS 1 prefix
-- ARGV 1 endpoint
-- Returns 1 when this opened the gate (told to one caller alone), else 0
local gate = p .. 'gate:' .. ARGV[1]
redis.call('HSET', gate, 'ok', 1)
return redis.call('HDEL', gate, 'reason', 'since', 'next_try', 'tries', 'turn', 'turn_until') > 0 and 1 or 0
