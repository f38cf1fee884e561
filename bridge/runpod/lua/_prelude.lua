-- Prepended to each script of this room. KEYS 1 is the prefix of the ledger's keys.
--   <p>budget:<endpoint id>:<op>        hash  b:<n> calls that ended in quarter second n; factor, cut_at, pause_until, workers, workers_at
--   <p>budget:<endpoint id>:<op>:held   hash  permits still out, by token
--   <p>budget:<endpoint id>:<op>:slots  zset  tokens by the time their permits count as ended (a dead process frees them so)
--   <p>gate:<endpoint>                  hash  reason, since, next_try, tries, turn; paused, pause_reason, paused_by; ok
local p = KEYS[1]

-- Ledger time in ms: Redis' clock plus the offset that the engines keep (I17).
local function ledger_now()
  local t = redis.call('TIME')
  local offset = redis.call('HGET', p .. 'meta', 'clock_offset')
  return t[1] * 1000 + math.floor(t[2] / 1000) + (tonumber(offset) or 0)
end
