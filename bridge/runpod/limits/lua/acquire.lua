-- acquire: hand out permits for calls of one operation to one endpoint, after taking back those that have ended (I9).
-- KEYS 1 prefix
-- ARGV 1 endpoint id  2 operation  3 wanted  4 token  5 ms after which the permits count as ended  6 calls per 10 s
--      7 concurrent  8 calls per 10 s and running RunPod worker  9 recovery per second (part of the whole)
--      10 class: "small" calls have a part left to them by the others; "paced" ones come in bulk (see PACED); "" neither
--      then triples: token, how many of its permits are still out, how many of the others were never used
-- Returns {granted, ms until another try is worth while}
-- Invariant: a call counts from its grant until 10 s after its end, wherever in between RunPod saw it; so no 10 s of
-- RunPod's clock ever hold more than the limit. The same token is granted the same again, and what is still out is
-- told as it is, not as a difference, so that a call repeated after a lost reply ends nothing twice (I15).
-- Bulk calls are spread once half of the limit is used: a flood that spends ten seconds' permits in two leaves those two
-- seconds' processor to nobody else, and gets nothing for it.
-- After a 429 one call alone is let out at a time, until one is answered: then the limit is what went through (learn).
local base = p .. 'budget:' .. ARGV[1] .. ':' .. ARGV[2]
local held, slots = base .. ':held', base .. ':slots'
local wanted, token = tonumber(ARGV[3]), ARGV[4]
local now = ledger_now()
local QUARTER, WINDOW, PROBE_WAIT = 250, 10000, 50
-- A refused small class has this part of the limit left to it, for so long.
local SMALL, SMALL_MS = 0.1, 10000
-- Beyond this part of the limit bulk calls are granted a tenth of it a second, and some to catch up with; at most what
-- falls into so many ms is granted at once.
local PACED_FROM, PACED, PACED_MS = 0.5, 0.11, 100
local probe, passed = redis.call('HGET', base, 'probe'), false

local function ended(count, at)
  if count > 0 then
    redis.call('HINCRBY', base, 'b:' .. math.floor(at / QUARTER), count)
    redis.call('HINCRBY', base, 'calls', count)
  end
end

local function take_back(from, left, unused, dead)
  local gone = tonumber(redis.call('HGET', held, from) or '0') - left
  if gone <= 0 then return end
  ended(gone - math.min(unused, gone), now)
  if left > 0 then
    redis.call('HSET', held, from, left)
    return
  end
  redis.call('HDEL', held, from)
  redis.call('ZREM', slots, from)
  if from == probe then
    redis.call('HDEL', base, 'probe')
    passed = not dead and unused == 0
  end
end

for i = 11, #ARGV, 3 do take_back(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), false) end
for _, dead in ipairs(redis.call('ZRANGE', slots, '-inf', now, 'BYSCORE')) do
  take_back(dead, 0, 0, true)
  redis.call('ZREM', slots, dead)
end
redis.call('PEXPIRE', base, 3600000)
if wanted == 0 and not passed then return {0, 0} end
local before = redis.call('HGET', held, token)
if before then return {tonumber(before), 0} end

local f = redis.call('HGETALL', base)
local recent, oldest, state = 0, nil, {}
for i = 1, #f, 2 do
  local quarter = tonumber(string.match(f[i], '^b:(%d+)$'))
  if not quarter then
    state[f[i]] = f[i + 1]
  elseif quarter * QUARTER + QUARTER + WINDOW <= now then
    redis.call('HDEL', base, f[i])
  else
    recent = recent + tonumber(f[i + 1])
    if not oldest or quarter < oldest then oldest = quarter end
  end
end
local whole = whole_of(state, now, tonumber(ARGV[6]), tonumber(ARGV[8]))

if passed and state.probing then -- what RunPod took in the last 10 s, it takes
  local met = tonumber(state.met)
  local least = math.max(0.5 * met, tonumber(state.good or '0'))
  local learned = math.max(least, math.min(0.95 * met, recent - tonumber(state.refused or '0')))
  state.limit, state.limit_at, state.probing = math.max(1, learned), now, nil
  redis.call('HSET', base, 'limit', state.limit, 'limit_at', now)
  redis.call('HDEL', base, 'probing', 'refused', 'backoff', 'good', 'pause_until')
  state.pause_until = nil
end
if wanted == 0 then return {0, 0} end

local pause = tonumber(state.pause_until or '0') - now
if pause > 0 then return {0, math.ceil(pause)} end
local calls = limit_of(state, now, whole, tonumber(ARGV[9]))
if calls >= whole then
  if state.limit then redis.call('HDEL', base, 'limit', 'limit_at', 'hold') end
  calls = whole
end
local concurrent = math.max(1, math.floor(tonumber(ARGV[7]) * calls / whole))
calls = math.max(1, math.floor(calls))

local out = 0
for _, count in ipairs(redis.call('HVALS', held)) do out = out + tonumber(count) end
local free = math.min(calls - recent - out, concurrent - out)
if state.probing then
  if state.probe then return {0, PROBE_WAIT} end
  free = math.min(1, free)
elseif ARGV[10] ~= 'small' and tonumber(state.small or '0') > now then
  free = free - math.max(1, math.floor(SMALL * calls))
end
-- Each paced permit takes its place on a line of even steps; `pace` is where the line has come to.
local step, pace
if ARGV[10] == 'paced' and recent + out >= PACED_FROM * calls then
  step = 1000 / (PACED * calls)
  pace = math.max(tonumber(state.pace or '0'), now - math.max(PACED_MS, step))
  free = math.min(free, math.floor((now - pace) / step + 0.000001))
end
local granted = math.max(0, math.min(wanted, free))
if granted > 0 then
  if step then redis.call('HSET', base, 'pace', string.format('%.3f', pace + granted * step)) end
  redis.call('HSET', held, token, granted)
  redis.call('ZADD', slots, now + tonumber(ARGV[5]), token)
  redis.call('PEXPIRE', held, 3600000)
  redis.call('PEXPIRE', slots, 3600000)
  if state.probing then redis.call('HSET', base, 'probe', token) end
  return {granted, 0}
end
if ARGV[10] == 'small' then redis.call('HSET', base, 'small', now + SMALL_MS) end
if step and pace + step > now then return {0, math.max(PACED_MS * 0.4, math.ceil(pace + step - now))} end
if concurrent - out <= 0 or not oldest then return {0, 50} end
return {0, math.max(10, oldest * QUARTER + QUARTER + WINDOW - now)}
