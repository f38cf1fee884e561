-- succeeded: a call to the endpoint was answered with success: remember that, and open its gate.
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 "1" when the call was a submit
-- Returns 1 when this opened the gate (told to one caller alone), else 0
-- Invariant: a gate that only submits have closed is opened by a submit.
local gate = p .. 'gate:' .. ARGV[1]
redis.call('HSET', gate, 'ok', 1)
redis.call('HDEL', gate, 'away', 'away_said', 'away_since', 'away_at')
if ARGV[2] == '1' then
  redis.call('HSET', gate, 'run_ok', ledger_now())
  redis.call('HDEL', gate, 'suspect', 'suspects')
elseif redis.call('HGET', gate, 'scope') == 'run' then return 0 end
local open = redis.call('HDEL', gate, 'reason', 'since', 'next_try', 'tries', 'turn', 'turn_until') > 0
redis.call('HDEL', gate, 'said', 'request', 'scope')
return open and 1 or 0
