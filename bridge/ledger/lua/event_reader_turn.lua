-- event_reader_turn: the turn of the one process that tells others (Celery's monitors, OpenTelemetry) what the event stream holds,
-- and its cursor.
-- KEYS 1 prefix  2 events stream
-- ARGV 1 token  2 lease in ms; 0 gives the turn back  3 how long the cursor is kept, in ms  4 the new cursor or ""  5 whom it tells
-- Returns {1, cursor}, or {0} when another has the turn: nothing is written then
-- Invariant: the cursor is moved only by who has the turn, after the broker took the events; whoever follows begins
-- there. Without a cursor, or behind all that the stream has ever held, it begins a few seconds back: so long may it
-- take until a worker notices that somebody listens. The same call again does no harm (I15).
local BACK_MS = 5000
local key = p .. ARGV[5]
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local found = redis.call('HMGET', key, 'token', 'until', 'cursor')
local cursor = found[3]
if found[1] and found[1] ~= ARGV[1] and tonumber(found[2]) > now then return {0} end
if ARGV[4] ~= '' then
  if found[1] ~= ARGV[1] then return {0} end
  cursor = ARGV[4]
end
local info, newest = redis.pcall('XINFO', 'STREAM', KEYS[2]), '0-0'
for i = 1, info.err and 0 or #info, 2 do
  if info[i] == 'last-generated-id' then newest = info[i + 1] end
end
if cursor then
  local ms, n = string.match(newest, '^(%d+)-(%d+)$')
  local its_ms, its_n = string.match(cursor, '^(%d+)-(%d+)$')
  local beyond = its_ms and (tonumber(its_ms) > tonumber(ms) or (its_ms == ms and tonumber(its_n) > tonumber(n)))
  if not its_ms or (beyond and tonumber(its_ms) > now) then cursor = nil end
end
cursor = cursor or string.format('%.0f-0', now - BACK_MS)
redis.call('HSET', key, 'token', ARGV[1], 'until', now + ARGV[2], 'cursor', cursor)
redis.call('PEXPIRE', key, ARGV[3])
return {1, cursor}
