-- throttled: RunPod said 429: pause, then let single calls find out when it takes them again.
-- KEYS 1 prefix
-- ARGV 1 endpoint id  2 operation  3 pause in ms (0: none was asked)  4 calls per 10 s
--      5 calls per 10 s and running RunPod worker  6 recovery per second
-- Returns 1 when this is news, 0 for calls that were under way together with the one that was told first
-- A limit that was met again soon is held twice as long before the next try above it.
local base = p .. 'budget:' .. ARGV[1] .. ':' .. ARGV[2]
local now = ledger_now()
local FIRST, LONGEST, HOLD, HOLD_MAX = 500, 2000, 60000, 600000
local state = hash_of(base)

local function pause(ms)
  redis.call('HSET', base, 'pause_until', math.max(tonumber(state.pause_until or '0'), now + ms))
end

redis.call('PEXPIRE', base, 3600000)
pause(tonumber(ARGV[3]))
redis.call('HINCRBY', base, 'refused', 1)
if state.probing then
  if state.probe then
    local backoff = math.min(LONGEST, tonumber(state.backoff) * 1.5)
    redis.call('HDEL', base, 'probe')
    redis.call('HSET', base, 'backoff', backoff)
    pause(math.max(tonumber(ARGV[3]), backoff))
  end
  return 0
end
local whole = whole_of(state, now, tonumber(ARGV[4]), tonumber(ARGV[5]))
local hold = HOLD
if state.limit then
  hold = math.min(HOLD_MAX, 2 * tonumber(state.hold or HOLD))
  -- Met while it grew: what was held all that time is good. Met while it was held: it was not.
  if now > tonumber(state.limit_at) + tonumber(state.hold or '0') then redis.call('HSET', base, 'good', state.limit) end
end
redis.call('HSET', base, 'probing', 1, 'met', limit_of(state, now, whole, tonumber(ARGV[6])), 'hold', hold,
  'backoff', FIRST, 'refused', 1)
pause(math.max(tonumber(ARGV[3]), FIRST))
redis.call('HINCRBY', base, 'cuts', 1)
return 1
