-- due_commands: hand out commands whose time has come; who got them sends them on, and then says so.
-- KEYS 1 prefix
-- ARGV 1 how many at most  2 lease in ms
-- Returns {next one in ms or -1, id, message, id, message, ...}
-- Invariant: one that was handed out comes again when its lease ends, until it was sent: whoever dies loses none.
local now = ledger_now()
local key, messages = p .. 'later', p .. 'later_messages'
local answer = {-1}
for _, id in ipairs(redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local message = redis.call('HGET', messages, id)
  if message then
    redis.call('ZADD', key, now + tonumber(ARGV[2]), id)
    answer[#answer + 1] = id
    answer[#answer + 1] = message
  else
    redis.call('ZREM', key, id)
  end
end
local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
if first[1] then answer[1] = math.floor(math.max(0, tonumber(first[2]) - now)) end
return answer
