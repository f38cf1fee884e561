-- early_cancel: remember a cancel whose request is not known yet.
-- KEYS 1 prefix
-- ARGV 1 id  2 wish as JSON  3 ms to keep it  4 how many wishes at most
--      5 "" for anybody's request, or "<tenant>/" for one of that tenant alone
-- Returns 1 KEPT   0 KNOWN: the record exists, cancel that   2 ENDED: only its tombstone is left
--         3 REPLACED: it is a task that has replaced itself by requests, cancel those
-- Invariant: the oldest goes when there are too many; none is kept for ever (I16). A tenant's wishes push out none but its own, and
-- to it another tenant's request is one that nobody has sent.
local now, id, whose = ledger_now(), ARGV[1], ARGV[5]
local function reaches(tenant) return whose == '' or whose == (tenant or '') .. '/' end
local row = p .. 'r:' .. id
if redis.call('EXISTS', row) == 1 and reaches(redis.call('HGET', row, 'tn')) then return 0 end
local tomb = redis.call('GET', p .. 't:' .. id)
if tomb and (whose == '' or reaches(cjson.decode(tomb).tn)) then return 2 end
if redis.call('EXISTS', p .. 'replaced:' .. id) == 1 and whose == '' then return 3 end
local wishes = p .. 'wishes' .. (whose == '' and '' or ':' .. whose)
redis.call('SET', p .. 'wish:' .. whose .. id, ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', wishes, now, id)
redis.call('PEXPIRE', wishes, ARGV[3])
redis.call('ZREMRANGEBYSCORE', wishes, '-inf', now - tonumber(ARGV[3]))
local over = redis.call('ZCARD', wishes) - tonumber(ARGV[4])
if over > 0 then
  local old = redis.call('ZPOPMIN', wishes, over)
  for i = 1, #old, 2 do redis.call('DEL', p .. 'wish:' .. whose .. old[i]) end
  redis.call('HINCRBY', p .. 'meta', 'wishes_dropped', over)
end
return 1
