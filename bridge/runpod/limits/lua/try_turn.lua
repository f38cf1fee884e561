-- try_turn: one caller may try an endpoint whose gate is closed.
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 token  3 ms the turn lasts
-- Returns 1 GRANTED (again for the same token: I15)   0 not yet, or somebody else's
local gate = p .. 'gate:' .. ARGV[1]
local now = ledger_now()
if not redis.call('HGET', gate, 'reason') then return 1 end
if now < tonumber(redis.call('HGET', gate, 'next_try') or '0') then return 0 end
local turn, ends = redis.call('HGET', gate, 'turn'), tonumber(redis.call('HGET', gate, 'turn_until') or '0')
if turn ~= ARGV[2] and now < ends then return 0 end
redis.call('HSET', gate, 'turn', ARGV[2], 'turn_until', now + tonumber(ARGV[3]))
return 1
