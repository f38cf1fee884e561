-- Prepended to each script of this room. KEYS 1 is the prefix of the ledger's keys, 2 the ledger time in ms by the caller's
-- own steady clock, or "".
--   <p>budget:<endpoint id>:<op>        hash  b:<n> calls that ended in quarter second n; calls, cuts (sums); workers, workers_at;
--                                             pace (until when bulk calls have been spread);
--                                             pause_until; probing, probe, backoff, refused, met, good (a 429 is being answered);
--                                             limit, limit_at, hold (learned from it); small (until when 10 % are left)
--   <p>budget:<endpoint id>:<op>:held   hash  permits still out, by token
--   <p>budget:<endpoint id>:<op>:slots  zset  tokens by the time their permits count as ended (a dead process frees them so)
--   <p>gate:<endpoint>                  hash  reason, since, next_try, tries, turn; paused, pause_reason, paused_by; ok
local p = KEYS[1]

-- Ledger time in ms: Redis' clock plus the offset that the engines keep (I17). Between a step of that clock and the beat
-- that takes it out the caller's is right: else what is written in that second would hold for as long as the step was.
local STEP = 5000
local function ledger_now()
  local t = redis.call('TIME')
  local offset = redis.call('HGET', p .. 'meta', 'clock_offset')
  local now = t[1] * 1000 + math.floor(t[2] / 1000) + (tonumber(offset) or 0)
  local callers = tonumber(KEYS[2] or '')
  if callers and math.abs(now - callers) > STEP then return callers end
  return now
end

local function hash_of(key)
  local flat, found = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- The limit as it would be without any 429: base, or the running RunPod workers' share where that is more.
local function whole_of(state, now, calls, per_worker)
  if state.workers and now - tonumber(state.workers_at) < 60000 then
    return math.max(calls, tonumber(state.workers) * per_worker)
  end
  return calls
end

-- The limit as it was learned from a 429: held for a while, then slowly grown back.
local function limit_of(state, now, whole, recovery)
  if not state.limit then return whole end
  local growing = math.max(0, now - tonumber(state.limit_at) - tonumber(state.hold or '0')) / 1000
  return math.min(whole, tonumber(state.limit) + growing * recovery * whole)
end
