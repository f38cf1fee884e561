-- stream: take records whose stream is to be read; each comes again when its lease ends.
-- KEYS 1 prefix
-- ARGV 1 how many at most  2 lease in ms  3 number of long fields wanted, then these
-- Returns {now, next in ms or -1, id, row, long values, ...}; ids without a record are dropped on the way.
local now = ledger_now()
local fields = {}
for i = 1, tonumber(ARGV[3]) do fields[i] = ARGV[3 + i] end
local answer = {now, -1}
for _, id in ipairs(redis.call('ZRANGE', p .. 'stream', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local row = redis.call('HGETALL', p .. 'r:' .. id)
  if #row == 0 then
    redis.call('ZREM', p .. 'stream', id)
  else
    redis.call('ZADD', p .. 'stream', now + tonumber(ARGV[2]), id)
    answer[#answer + 1] = id
    answer[#answer + 1] = row
    answer[#answer + 1] = redis.call('HMGET', p .. 'd:' .. id, unpack(fields))
  end
end
local first = redis.call('ZRANGE', p .. 'stream', 0, 0, 'WITHSCORES')
if first[1] then answer[2] = math.floor(math.max(0, tonumber(first[2]) - now)) end
return answer
