-- beat: an engine says that it lives, and corrects the ledger's clock after a step of Redis' own (I17).
-- KEYS 1 prefix
-- ARGV 1 engine  2 ms after which a silent engine counts as gone  3 correction of the clock in ms  4 offset it was measured at
-- Returns {now, clock offset, live engines, changes}
-- Invariant: two engines that saw the same step correct it once: the offset must still be the one they measured against.
local offset = tonumber(redis.call('HGET', p .. 'meta', 'clock_offset') or '0')
local correction = tonumber(ARGV[3])
if correction ~= 0 and offset == tonumber(ARGV[4]) then
  offset = offset + correction
  redis.call('HSET', p .. 'meta', 'clock_offset', offset)
end
local now = ledger_now()
redis.call('ZADD', p .. 'engines', now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', p .. 'engines', '-inf', now - tonumber(ARGV[2]))
return {now, offset, redis.call('ZCARD', p .. 'engines'), tonumber(redis.call('HGET', p .. 'meta', 'changes') or '0')}
