-- Prepended to each script of this room. KEYS 1 is the prefix of the ledger's keys, 2 the ledger time in ms by the caller's
-- own steady clock, or "".
--   <p>budget:<endpoint id>:<op>        hash  b:<n> calls that ended in quarter second n; calls, cuts (sums); workers, workers_at;
--                                             pace (until when bulk calls have been spread);
--                                             pause_until; probing, probe, backoff, refused, met, good (a 429 is being answered);
--                                             limit, limit_at, hold (learned from it); small (until when 10 % are left)
--   <p>budget:<endpoint id>:<op>:held   hash  permits still out, by token
--   <p>budget:<endpoint id>:<op>:slots  zset  tokens by the time their permits count as ended (a dead process frees them so)
--   <p>gate:<endpoint>                  hash  reason, since, next_try, tries, turn, turn_until, said, request (who heard it),
--                                             scope ("run": only submits are in trouble); paused, pause_reason, paused_by, paused_at; purged_at, purged_by,
--                                             purged_door; ok;
--                                             suspect, suspects (requests that were not taken since one was), run_ok;
--                                             away, away_said, away_since, away_at (some process gets no answer);
--                                             told (the reason that waiting requests were told last)
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

-- Close a gate, or stay closed and space the tries. Answers 1 when the reason is news, else 0.
local function close_gate(gate, now, reason, said, request, first, longest)
  local was = redis.call('HGET', gate, 'reason')
  if not was then
    redis.call('HSET', gate, 'since', now, 'tries', 1, 'next_try', now + first)
  -- Calls that were under way when the gate closed fail too; only a try after its time doubles the pause.
  elseif now >= tonumber(redis.call('HGET', gate, 'next_try')) then
    local tries = redis.call('HINCRBY', gate, 'tries', 1)
    redis.call('HSET', gate, 'next_try', now + math.min(longest, first * 2 ^ math.min(tries - 1, 30)))
    redis.call('HDEL', gate, 'turn', 'turn_until') -- this try has had its answer; the next is anybody's
  end
  -- Another trouble in the same closed time is news, but no reason to try sooner.
  redis.call('HSET', gate, 'reason', reason, 'said', said, 'request', request)
  return was == reason and 0 or 1
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
