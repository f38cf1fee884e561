-- due_requests: requests whose time has come stand among those that wait to be submitted.
-- KEYS 1 prefix
-- ARGV 1 how many at most
-- Returns {how many were moved, next one in ms or -1}
-- Invariant: a record stands in one due set (I5); its version counts the move, so that no change made before it is written
-- over it. What is waiting to be submitted is counted from here on (accept counts what is scheduled apart).
local now, left = ledger_now(), tonumber(ARGV[1])
local moved, next_ms = 0, -1

local function begin(endpoint, id)
  local row, count = p .. 'r:' .. id, p .. 'count:' .. endpoint
  unstand(endpoint, 'scheduled', id)
  if not sound(id, now) or redis.call('HGET', row, 'du') ~= 'scheduled' then return end
  local has = redis.call('HMGET', row, 'sy', 'pr', 'nb', 'ta', 'ln')
  local step = has[5] and 'submit_batch' or has[1] and 'submit_sync' or 'submit'
  local since = math.max(tonumber(has[3] or 0), tonumber(has[4] or 0))
  local bytes = redis.call('HSTRLEN', p .. 'd:' .. id, 'input')
  redis.call('HSET', row, 'du', step)
  redis.call('HINCRBY', row, 'v', 1)
  redis.call('HINCRBY', count, 'scheduled_bytes', -bytes)
  redis.call('HINCRBY', count, 'waiting_bytes', bytes)
  stand(endpoint, step, string.format('%.0f', (9 - tonumber(has[2] or 4)) * 1e13 + since), id)
  moved = moved + 1
end

for _, endpoint in ipairs(redis.call('SMEMBERS', p .. 'endpoints')) do
  local key = due_key(endpoint, 'scheduled')
  if left > 0 then
    for _, id in ipairs(redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, left)) do
      begin(endpoint, id)
      left = left - 1
    end
  end
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[1] then
    local wait = math.floor(math.max(0, tonumber(first[2]) - now))
    if next_ms < 0 or wait < next_ms then next_ms = wait end
  end
end
return {moved, next_ms}
