-- trouble: the endpoint or account cannot be used: close the gate, or space its tries further.
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 reason  3 first pause in ms  4 longest pause in ms  5 what was said  6 the request that heard it, or ""
-- Returns 1 when the reason is news, else 0
local gate = p .. 'gate:' .. ARGV[1]
redis.call('HDEL', gate, 'scope')
return close_gate(gate, ledger_now(), ARGV[2], ARGV[5] or '', ARGV[6] or '', tonumber(ARGV[3]), tonumber(ARGV[4]))
