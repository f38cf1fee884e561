-- away: a process gets no answer from the endpoint: noted for all, so that each can say why requests wait.
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 reason  3 what was said
-- Returns 1
local gate, now = p .. 'gate:' .. ARGV[1], ledger_now()
if redis.call('HGET', gate, 'away') ~= ARGV[2] then redis.call('HSET', gate, 'away_since', now) end
redis.call('HSET', gate, 'away', ARGV[2], 'away_said', ARGV[3], 'away_at', now)
return 1
