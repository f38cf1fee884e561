-- due: what each endpoint has to do of some steps, without taking it.
-- KEYS 1 prefix
-- ARGV steps
-- Returns {now, endpoint, step, due now, next due in ms or -1, ...} for those that have any.
local now = ledger_now()
local answer = {now}
for _, endpoint in ipairs(redis.call('SMEMBERS', p .. 'endpoints')) do
  for _, step in ipairs(ARGV) do
    local key = due_key(endpoint, step)
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[1] then
      local ready, wait
      if submits(step) then
        ready, wait = redis.call('ZCARD', key), 0
      else
        ready = redis.call('ZCOUNT', key, '-inf', now)
        wait = math.max(0, tonumber(first[2]) - now)
      end
      answer[#answer + 1] = endpoint
      answer[#answer + 1] = step
      answer[#answer + 1] = ready
      answer[#answer + 1] = math.floor(wait)
    end
  end
end
return answer
