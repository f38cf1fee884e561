-- amqp_turn: the turn of the one publisher that tells AMQP what the event stream holds, and its cursor.
-- KEYS 1 prefix  2 events stream  3 dead letters
-- ARGV 1 verb  2 token  then by verb:
--   take     3 lease in ms            Returns {1, cursor} or {0} when another has the turn. A cursor that stands behind
--                                     all that the stream has ever held is another stream's: this one is told from its beginning; the
--                                     same of the dead letters
--   done     3 lease in ms  4 cursor  5 entries told  6 "dead" or "": which cursor
--                                     Returns {1}, or {0} when the turn is lost: nothing is written
--   release                           Returns {1} or {0}
-- Invariant: the cursor is moved only by who has the turn, after confirms (I7). The same call again does no harm: a
-- cursor that stands at its new place counts nothing twice (I15).
local key, meta = p .. 'relay', p .. 'meta'
local verb, token = ARGV[1], ARGV[2]
local has = redis.call('GET', key)
if verb == 'take' and not has then
  redis.call('SET', key, token)
  has = token
end
if has ~= token then return {0} end
if verb == 'release' then
  redis.call('DEL', key)
  return {1}
end
redis.call('PEXPIRE', key, ARGV[3])
-- Whether a cursor stands behind all that a stream has ever held; then how many entries have left the stream.
local function anothers(stream, cursor)
  local info, at, added, length = redis.pcall('XINFO', 'STREAM', stream), nil, 0, 0
  for i = 1, info.err and 0 or #info, 2 do
    if info[i] == 'last-generated-id' then at = info[i + 1]
    elseif info[i] == 'entries-added' then added = info[i + 1]
    elseif info[i] == 'length' then length = info[i + 1] end
  end
  if not at or not cursor or at == cursor then return false, 0 end
  local ms, n = string.match(at, '^(%d+)-(%d+)$')
  local its_ms, its_n = string.match(cursor, '^(%d+)-(%d+)$')
  local behind = its_ms and (tonumber(its_ms) > tonumber(ms) or (its_ms == ms and tonumber(its_n) > tonumber(n)))
  return behind, added - length
end

if verb == 'take' then
  local behind, gone = anothers(KEYS[2], redis.call('HGET', meta, 'cursor'))
  if behind then redis.call('HSET', meta, 'cursor', '0-0', 'relayed', gone) end
  if anothers(KEYS[3], redis.call('HGET', meta, 'dead_cursor')) then redis.call('HSET', meta, 'dead_cursor', '0-0') end
end
if verb == 'take' then return {1, redis.call('HGET', meta, 'cursor') or '0-0', redis.call('HGET', meta, 'dead_cursor') or '0-0'} end
if ARGV[4] ~= '' then
  local field = ARGV[6] == 'dead' and 'dead_cursor' or 'cursor'
  if redis.call('HGET', meta, field) ~= ARGV[4] then
    redis.call('HSET', meta, field, ARGV[4])
    if field == 'cursor' then redis.call('HINCRBY', meta, 'relayed', ARGV[5]) end
  end
end
return {1}
