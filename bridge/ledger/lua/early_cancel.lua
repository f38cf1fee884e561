-- early_cancel: remember a cancel whose request is not known yet.
-- KEYS 1 prefix
-- ARGV 1 id  2 wish as JSON  3 ms to keep it  4 how many wishes at most
-- Returns 1 KEPT   0 KNOWN: the record exists, cancel that   2 ENDED: only its tombstone is left
--         3 REPLACED: it is a task that has replaced itself by requests, cancel those
-- Invariant: the oldest goes when there are too many; none is kept for ever (I16).
local now = ledger_now()
if redis.call('EXISTS', p .. 'r:' .. ARGV[1]) == 1 then return 0 end
if redis.call('EXISTS', p .. 't:' .. ARGV[1]) == 1 then return 2 end
if redis.call('EXISTS', p .. 'replaced:' .. ARGV[1]) == 1 then return 3 end
redis.call('SET', p .. 'wish:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', p .. 'wishes', now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', p .. 'wishes', '-inf', now - tonumber(ARGV[3]))
local over = redis.call('ZCARD', p .. 'wishes') - tonumber(ARGV[4])
if over > 0 then
  local old = redis.call('ZPOPMIN', p .. 'wishes', over)
  for i = 1, #old, 2 do redis.call('DEL', p .. 'wish:' .. old[i]) end
  redis.call('HINCRBY', p .. 'meta', 'wishes_dropped', over)
end
return 1
