-- trouble: the endpoint or account cannot be used: close the gate, or space its tries further.
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 reason  3 first pause in ms  4 longest pause in ms
-- Returns 1 when the reason is news, else 0
local gate = p .. 'gate:' .. ARGV[1]
local now = ledger_now()
local reason = redis.call('HGET', gate, 'reason')
if not reason then
  redis.call('HSET', gate, 'reason', ARGV[2], 'since', now, 'tries', 1, 'next_try', now + tonumber(ARGV[3]))
  return 1
end
-- Calls that were under way when the gate closed fail too; only a try after its time doubles the pause.
if now >= tonumber(redis.call('HGET', gate, 'next_try')) then
  local tries = redis.call('HINCRBY', gate, 'tries', 1)
  redis.call('HSET', gate, 'next_try', now + math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ math.min(tries - 1, 30)))
  redis.call('HDEL', gate, 'turn', 'turn_until') -- this try has had its answer; the next is anybody's
end
if reason == ARGV[2] then return 0 end
-- Another trouble in the same closed time is news, but no reason to try sooner.
redis.call('HSET', gate, 'reason', ARGV[2])
return 1
