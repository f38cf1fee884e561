-- callback: hand out lanes whose first callback is due, and take back what became of it.
-- KEYS 1 prefix
-- ARGV 1 verb  2 token  then by verb:
--   owe     3 callbacks as JSON  4 the event                       Returns {now, 1}
--   claim   3 lease in ms  4 lanes at most  5 lanes of one host at most  6 ms that a callback is tried  7 ms of a host's failing
--           after which those that are over it are given up untried
--           Returns {now, next look in ms or -1, lane, host, tries, news, skipped, fails of the host, given up: 1 or 0, entry or "", lane, ...}
--   done    3 lane  4 host  5 "all" or "first": what is owed no more  6 to 8 as of later          Returns {now, 1, left} or {now, 0}
--   later   3 lane  4 host  5 ms until the next try  6 host: "well", "away", "slow" or ""  7 its fails in a row  8 ms that it rests
--           Returns {now, 1} or {now, 0}
--   drop    3 lane  4 host  5 news                                  Returns {now, 1} gone, {now, 2} something has come meanwhile, {now, 0}
-- Invariant: one caller a lane, in its order; who dies is followed when its lease ends. A token that has been given back writes
-- nothing, so a repeated call takes no second one off (I15). A host that is away, or slow, is tried by one lane at a time.
local verb, token = ARGV[1], ARGV[2]
local now = ledger_now()
local hosts = p .. 'cb_hosts'
local HOST_KEPT_S = 86400

if verb == 'owe' then
  owe(ARGV[3], ARGV[4])
  return {now, 1}
end

local function hand_out_lane(answer, lane, host, fails, over)
  local state = redis.call('HMGET', p .. 'cbs:' .. lane, 'tries', 'news', 'skipped')
  for _, part in ipairs({lane, host, tonumber(state[1] or '0'), tonumber(state[2] or '0'), tonumber(state[3] or '0'), fails, over,
    redis.call('LINDEX', p .. 'cb:' .. lane, 0) or ''}) do
    answer[#answer + 1] = part
  end
end

if verb == 'claim' then
  local answer, lease_end, room = {now, -1}, now + tonumber(ARGV[3]), tonumber(ARGV[4])
  local grant = p .. 'grant:' .. token
  local before = redis.call('GET', grant)
  if before then
    for lane, host in string.gmatch(before, '([^ ]+) ([^ ]+)') do
      if redis.call('HGET', p .. 'cbs:' .. lane, 'token') == token then hand_out_lane(answer, lane, host, 0, 0) end
    end
    return answer
  end
  local granted_now = {}
  for _, host in ipairs(redis.call('ZRANGE', hosts, '-inf', now, 'BYSCORE', 'LIMIT', 0, 500)) do
    if room <= 0 then break end
    local due, out = p .. 'cb_due:' .. host, p .. 'cb_out:' .. host
    redis.call('ZREMRANGEBYSCORE', out, '-inf', now)
    local known = redis.call('HMGET', p .. 'cb_host:' .. host, 'fails', 'until')
    local fails, rests = tonumber(known[1] or '0'), tonumber(known[2] or '0')
    local cap = fails > 0 and 1 or tonumber(ARGV[5])
    local free = math.min(room, cap - redis.call('ZCARD', out))
    if rests <= now and free > 0 then
      for _, lane in ipairs(redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', 0, free)) do
        redis.call('HSET', p .. 'cbs:' .. lane, 'token', token)
        redis.call('ZADD', due, lease_end, lane)
        redis.call('ZADD', out, lease_end, lane)
        hand_out_lane(answer, lane, host, fails, 0)
        granted_now[#granted_now + 1] = lane .. ' ' .. host
        room = room - 1
      end
    end
    -- Who gives a lane back has the host looked at at once.
    local first, busy = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES'), redis.call('ZRANGE', out, 0, 0, 'WITHSCORES')
    if not first[1] then redis.call('ZREM', hosts, host)
    else
      local at = math.max(tonumber(first[2]), rests)
      if at <= now and busy[1] and redis.call('ZCARD', out) >= cap then at = tonumber(busy[2]) end
      redis.call('ZADD', hosts, at, host)
    end
  end
  -- A host that is tried by one lane at a time would take weeks to be tried by ten thousand.
  for _, lane in ipairs(redis.call('ZRANGE', p .. 'cb_since', '-inf', now - tonumber(ARGV[6]), 'BYSCORE', 'LIMIT', 0, 200)) do
    local host = redis.call('HGET', p .. 'cbs:' .. lane, 'host') or ''
    local known = redis.call('HMGET', p .. 'cb_host:' .. host, 'fails', 'since')
    local leased = redis.call('ZSCORE', p .. 'cb_out:' .. host, lane)
    if room > 0 and known[2] and tonumber(known[2]) <= now - tonumber(ARGV[7]) and not (leased and tonumber(leased) > now) then
      redis.call('HSET', p .. 'cbs:' .. lane, 'token', token)
      redis.call('ZADD', p .. 'cb_due:' .. host, lease_end, lane)
      redis.call('ZADD', p .. 'cb_out:' .. host, lease_end, lane)
      hand_out_lane(answer, lane, host, tonumber(known[1]), 1)
      granted_now[#granted_now + 1] = lane .. ' ' .. host
      room = room - 1
    end
  end
  if #granted_now > 0 then redis.call('SET', grant, table.concat(granted_now, ' '), 'PX', ARGV[3]) end
  local next_one = redis.call('ZRANGE', hosts, 0, 0, 'WITHSCORES')
  if next_one[1] then answer[2] = math.floor(math.max(0, tonumber(next_one[2]) - now)) end
  return answer
end

local lane, host = ARGV[3], ARGV[4]
local list, state = p .. 'cb:' .. lane, p .. 'cbs:' .. lane
if redis.call('HGET', state, 'token') ~= token then return {now, 0} end
redis.call('HDEL', state, 'token')
redis.call('ZREM', p .. 'cb_out:' .. host, lane)
redis.call('ZADD', hosts, 'LT', now, host)
local function host_is(word, fails, rests_ms)
  local key = p .. 'cb_host:' .. host
  if word == 'well' then redis.call('DEL', key)
  elseif word ~= '' then
    redis.call('HSET', key, 'fails', fails, 'until', now + rests_ms)
    redis.call('HSETNX', key, 'since', now)
    redis.call('EXPIRE', key, HOST_KEPT_S)
  end
end

if verb == 'done' then
  local count = ARGV[5] == 'all' and redis.call('LLEN', list) or 1
  for _ = 1, count do
    local head = redis.call('LPOP', list)
    if head then
      redis.call('HINCRBY', state, 'bytes', -#head)
      redis.call('DECR', p .. 'cb_owed')
    end
  end
  redis.call('HDEL', state, 'tries', 'skipped')
  host_is(ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
  local head = redis.call('LINDEX', list, 0)
  if head then redis.call('ZADD', p .. 'cb_since', string.match(head, '^%d+'), lane)
  else redis.call('ZREM', p .. 'cb_since', lane) end
  redis.call('ZADD', p .. 'cb_due:' .. host, now, lane)
  return {now, 1, redis.call('LLEN', list)}
end

if verb == 'later' then
  redis.call('HINCRBY', state, 'tries', 1)
  redis.call('HDEL', state, 'skipped')
  redis.call('ZADD', p .. 'cb_due:' .. host, now + tonumber(ARGV[5]), lane)
  host_is(ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
  return {now, 1}
end

-- drop
if redis.call('LLEN', list) > 0 or redis.call('HGET', state, 'news') ~= ARGV[5] then
  redis.call('ZADD', p .. 'cb_due:' .. host, now, lane)
  return {now, 2}
end
redis.call('ZREM', p .. 'cb_due:' .. host, lane)
redis.call('ZREM', p .. 'cb_since', lane)
redis.call('DEL', state)
return {now, 1}
