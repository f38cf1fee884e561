-- heartbeat: an engine says that it lives, and corrects the ledger's clock after a step of Redis' own (I17).
-- KEYS 1 prefix
-- ARGV 1 engine  2 ms after which a silent engine counts as gone  3 correction of the clock in ms  4 offset it was measured at
--      5 the most changes this engine has heard of
-- Returns {now, clock offset, live engines, changes, in doubt since or 0, changes lost (found by this call)}
-- Invariant: two engines that saw the same step correct it once: the offset must still be the one they measured against.
-- A ledger with fewer changes than somebody has seen came back without its latest writes (HARDENING 19): what says "never
-- sent" may have been sent, so nobody submits (claim) until those records have been marked.
local offset = tonumber(redis.call('HGET', p .. 'meta', 'clock_offset') or '0')
local correction = tonumber(ARGV[3])
if correction ~= 0 and offset == tonumber(ARGV[4]) then
  offset = offset + correction
  redis.call('HSET', p .. 'meta', 'clock_offset', offset)
end
local now = ledger_now()
redis.call('ZADD', p .. 'engines', now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', p .. 'engines', '-inf', now - tonumber(ARGV[2]))
local changes = tonumber(redis.call('HGET', p .. 'meta', 'changes') or '0')
local lost = tonumber(ARGV[5]) - changes
if lost > 0 then
  changes = changes + lost
  redis.call('HSET', p .. 'meta', 'changes', changes)
  redis.call('HSETNX', p .. 'meta', 'doubt', now)
  redis.call('HINCRBY', p .. 'meta', 'rollbacks', 1)
end
local doubt = tonumber(redis.call('HGET', p .. 'meta', 'doubt') or '0')
return {now, offset, redis.call('ZCARD', p .. 'engines'), changes, doubt, math.max(0, lost)}
