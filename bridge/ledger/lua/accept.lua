-- accept: write a new record with its first event and due time, unless its id is known.
-- KEYS 1 prefix  2 events stream
-- ARGV 1 id  2 endpoint  3 phase  4 due step or ""  5 due score  6 timer or "0"  7 consumes a wish ("1" or "")
--      8 ms to keep the row ("" for ever)  9 tombstone or ""  10 ms to keep the tombstone
--      11 number of row values  12 number of long values  13 number of events  14 the task that it replaces or "", then these lists
-- Returns {1, now, changes} CREATED   {0, now, row} EXISTS   {2, now, tombstone} REMEMBERED   {3, now, wish} WISHED: ask again, born ended
-- Invariant: one record per id (I2); the event enters the outbox in this same call (I3). The input's bytes are counted as
-- waiting in the same call, until the change that drops it (commit).
local id, endpoint = ARGV[1], ARGV[2]
local row = p .. 'r:' .. id
local now = ledger_now()
if redis.call('EXISTS', row) == 1 then return {0, now, redis.call('HGETALL', row)} end
local tomb = redis.call('GET', p .. 't:' .. id)
if tomb then return {2, now, tomb} end
local at = 15
local n_row, n_long, n_events = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local tenant, bytes = '', 0
for i = at, at + 2 * n_row - 1, 2 do
  if ARGV[i] == 'tn' then tenant = ARGV[i + 1] end
end
-- Anybody's cancel, and one that may reach this tenant's requests alone.
local wishes = redis.call('MGET', p .. 'wish:' .. id, p .. 'wish:' .. tenant .. '/' .. id)
local wish = wishes[1] or wishes[2]
-- A cancel of the task that has replaced itself by this request; it stays, for there may be more of them.
if not wish and ARGV[14] ~= '' then wish = redis.call('GET', p .. 'wish:' .. ARGV[14]) end
if wish and ARGV[7] == '' then return {3, now, wish} end
if wish then
  redis.call('DEL', p .. 'wish:' .. id, p .. 'wish:' .. tenant .. '/' .. id)
  redis.call('ZREM', p .. 'wishes', id)
  redis.call('ZREM', p .. 'wishes:' .. tenant .. '/', id)
end
for _, key in ipairs({p .. 'd:' .. id, p .. 'count:' .. endpoint}) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind) end
end
redis.call('HSET', row, 'v', 1, unpack(ARGV, at, at + 2 * n_row - 1))
at = at + 2 * n_row
for i = at, at + 2 * n_long - 1, 2 do
  if ARGV[i] == 'input' then bytes = #ARGV[i + 1] end
end
if n_long > 0 then redis.call('HSET', p .. 'd:' .. id, unpack(ARGV, at, at + 2 * n_long - 1)) end
at = at + 2 * n_long
tell(KEYS[2], ARGV, at, n_events)
if redis.call('SADD', p .. 'endpoints', endpoint) == 1 then -- its history begins with nothing (samples.py)
  redis.pcall('LPUSH', p .. 'samples:' .. endpoint, now .. ':0:0:0:0:0')
  redis.pcall('PEXPIRE', p .. 'samples:' .. endpoint, 7200000)
end
redis.pcall('ZADD', p .. 'accepted', now, id) -- the listing: a key that somebody has edited stops nothing
redis.call('HINCRBY', p .. 'count:' .. endpoint, ARGV[3], 1)
if bytes > 0 then
  redis.call('HINCRBY', p .. 'count:' .. endpoint, ARGV[4] == 'scheduled' and 'scheduled_bytes' or 'waiting_bytes', bytes)
end
if ARGV[4] ~= '' then stand(endpoint, ARGV[4], ARGV[5], id, tenant) end
if ARGV[6] ~= '0' then redis.call('ZADD', p .. 'timer', ARGV[6], id) end
if ARGV[8] ~= '' then
  redis.call('PEXPIRE', row, ARGV[8])
  redis.call('PEXPIRE', p .. 'd:' .. id, ARGV[8])
end
if ARGV[9] ~= '' then redis.call('SET', p .. 't:' .. id, ARGV[9], 'PX', ARGV[10]) end
if ARGV[14] ~= '' then
  replaces(id, ARGV[14])
  if ARGV[8] ~= '' then replaces(id, ARGV[14], ARGV[8]) end
end
return {1, now, redis.call('HINCRBY', p .. 'meta', 'changes', 1)}
