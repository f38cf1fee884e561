-- timers: records one of whose clocks has run out. Takes nothing: the change that answers it is fenced by the version.
-- KEYS 1 prefix
-- ARGV 1 how many at most  2 number of long fields wanted, then these
-- Returns {now, next clock in ms or -1, id, row, long values, ...}; ids without a record are dropped on the way.
local now = ledger_now()
local fields = wanted(2)
local answer = {now, -1}
local found = redis.call('ZRANGE', p .. 'timer', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, id in ipairs(found) do
  local well = sound(id, now)
  if well and not well[1] and redis.call('EXISTS', p .. 'r:' .. id) == 0 then
    redis.call('ZREM', p .. 'timer', id)
  elseif well then
    hand_out(answer, id, fields)
  end
end
local first = redis.call('ZRANGE', p .. 'timer', 0, 0, 'WITHSCORES')
if first[1] then answer[2] = math.floor(math.max(0, tonumber(first[2]) - now)) end
return answer
