-- commit: write one change of one record, with its events and its next due time, or nothing.
-- KEYS 1 prefix  2 events stream
-- ARGV 1 id  2 version it was made from  3 token of this change  4 endpoint  5 phase before  6 phase after
--      7 due step before or ""  8 due step after or ""  9 due: "+ms" from now, an absolute score, "" unchanged
--      10 timer in ledger ms, "0" none, "" unchanged  11 lease end in ledger ms, "0" none
--      12 closes: ms to keep the record, "0" keep for ever again (reopened), "" unchanged
--      13 ms to keep the output when it closes  14 tombstone or ""  15 ms to keep it
--      16 output: "set", "drop" or ""  17 the output
--      18 row values  19 row drops  20 long values  21 long drops  22 events  23 orphans  24 chunks, then these lists after
--      25 stream: "+ms" read next, "-" never again, "" unchanged
--      26 executionTime in ms of a job that has ended  27 the part of it that was paid twice (another job of the request counts)
-- Returns {1, now, version, changes} WRITTEN (also when this very change was written before: I15)
--         {0, now, row}     STALE: somebody changed it first; make the change anew from this row
--         {-1, now}         UNKNOWN: no such record
-- Invariant: a change and its events are one (I3); a record that needs work has a due time or a lease (I5). Version and
-- token are written last: a script that failed half-way is not believed when it is repeated.
local id, endpoint = ARGV[1], ARGV[4]
local row, long = p .. 'r:' .. id, p .. 'd:' .. id
local now = ledger_now()

local function score_of(text)
  return string.sub(text, 1, 1) == '+' and now + tonumber(string.sub(text, 2)) or text
end

local has = redis.call('HMGET', row, 'v', 'tk', 'lt', 'tn', 'rp')
if not has[1] then return {-1, now} end
if has[1] ~= ARGV[2] then
  if has[2] == ARGV[3] then return {1, now, tonumber(has[1]), 0} end
  return {0, now, redis.call('HGETALL', row)}
end
local n_put, n_drop = tonumber(ARGV[18]), tonumber(ARGV[19])
local n_long, n_long_drop = tonumber(ARGV[20]), tonumber(ARGV[21])
local flew = IN_FLIGHT[ARGV[5]] or (ARGV[5] == 'ACCEPTED' and has[3])
local flies = IN_FLIGHT[ARGV[6]] or (ARGV[6] == 'ACCEPTED' and ARGV[11] ~= '0')
-- What cannot be written is found before anything is.
local written = {}
if n_long + n_long_drop > 0 then written[1] = long end
if ARGV[5] ~= ARGV[6] or n_long_drop > 0 or ARGV[26] ~= '0' or (not flew) ~= (not flies) then
  written[#written + 1] = p .. 'count:' .. endpoint
end
for _, key in ipairs(written) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind) end
end
local at = 28
local version = tonumber(has[1]) + 1
if n_put > 0 then redis.call('HSET', row, unpack(ARGV, at, at + 2 * n_put - 1)) end
at = at + 2 * n_put
if n_drop > 0 then redis.call('HDEL', row, unpack(ARGV, at, at + n_drop - 1)) end
at = at + n_drop
if n_long > 0 then redis.call('HSET', long, unpack(ARGV, at, at + 2 * n_long - 1)) end
at = at + 2 * n_long
local freed = 0
for i = at, at + n_long_drop - 1 do
  if ARGV[i] == 'input' then freed = redis.call('HSTRLEN', long, 'input') end
end
if n_long_drop > 0 then redis.call('HDEL', long, unpack(ARGV, at, at + n_long_drop - 1)) end
at = at + n_long_drop
if ARGV[16] == 'set' then redis.call('SET', p .. 'o:' .. id, ARGV[17]) end
if ARGV[16] == 'drop' then redis.call('DEL', p .. 'o:' .. id) end
if ARGV[5] ~= ARGV[6] then
  local count = p .. 'count:' .. endpoint
  redis.call('HINCRBY', count, ARGV[5], -1)
  redis.call('HINCRBY', count, ARGV[6], 1)
  if ARGV[6] == 'TRACKED' then redis.call('ZADD', p .. 'tracked:' .. endpoint, now, id)
  elseif ARGV[5] == 'TRACKED' then redis.call('ZREM', p .. 'tracked:' .. endpoint, id) end
end
if flies and not flew then flying(endpoint, has[4] or '', 1)
elseif flew and not flies then flying(endpoint, has[4] or '', -1) end
if ARGV[26] ~= '0' then book(endpoint, has[4] or '', tonumber(ARGV[26]), tonumber(ARGV[27])) end
if freed > 0 and ARGV[7] == 'scheduled' then
  redis.call('HINCRBY', p .. 'count:' .. endpoint, 'scheduled_bytes', -freed)
elseif freed > 0 then -- no input waits where nothing waits: that heals whatever an older version has left uncounted
  local count = p .. 'count:' .. endpoint
  local waiting = 0
  for _, phase in ipairs(redis.call('HMGET', count, 'ACCEPTED', 'SUBMITTING', 'UNANSWERED')) do
    waiting = waiting + tonumber(phase or 0)
  end
  if waiting <= 0 then redis.call('HDEL', count, 'waiting_bytes')
  else redis.call('HINCRBY', count, 'waiting_bytes', -freed) end
end
if ARGV[7] ~= '' and ARGV[7] ~= ARGV[8] then unstand(endpoint, ARGV[7], id, has[4] or '') end
if ARGV[8] ~= '' and ARGV[9] ~= '' then
  stand(endpoint, ARGV[8], score_of(ARGV[9]), id, has[4] or '')
end
if ARGV[11] == '0' then redis.call('ZREM', p .. 'leased:' .. endpoint, id) end
if ARGV[10] == '0' then redis.call('ZREM', p .. 'timer', id)
elseif ARGV[10] ~= '' then redis.call('ZADD', p .. 'timer', ARGV[10], id) end
at = tell(KEYS[2], ARGV, at, tonumber(ARGV[22]))
for _ = 1, tonumber(ARGV[23]) do
  redis.call('ZADD', p .. 'stray', now, ARGV[at])
  at = at + 1
end
-- Chunk n is entry n+1. What comes out of turn (a repaired chunk, the end) follows the last one.
local chunks = string.gsub(KEYS[2], 'events$', 'chunks:') .. id
if ARGV[24] ~= '0' then
  local last = last_id(chunks) -- not the newest entry's: who has read it may have deleted it
  if last >= 9007199254740992 then -- no number of a chunk is that high: somebody else has written there
    set_aside(chunks, 'its ids are used up')
    last = 0
  end
  for _ = 1, tonumber(ARGV[24]) do
    local index = string.match(ARGV[at], '^{"index":(%d+)')
    local entry = index and tonumber(index) + 1 or 0
    if entry > last then
      last = entry
      add(chunks, entry .. '-0', 'data', ARGV[at])
    else
      add(chunks, string.format('%.0f', last) .. '-*', 'data', ARGV[at])
    end
    at = at + 1
  end
end
if ARGV[25] == '-' then redis.call('ZREM', due_key(endpoint, 'stream'), id)
elseif ARGV[25] ~= '' then redis.call('ZADD', due_key(endpoint, 'stream'), score_of(ARGV[25]), id) end
if ARGV[12] == '0' then
  redis.call('PERSIST', row)
  redis.call('PERSIST', long)
  redis.call('PERSIST', p .. 'o:' .. id)
  redis.call('PERSIST', chunks)
  if has[5] then replaces(id, has[5]) end
elseif ARGV[12] ~= '' then
  redis.call('PEXPIRE', row, ARGV[12])
  redis.call('PEXPIRE', long, ARGV[12])
  redis.call('PEXPIRE', p .. 'o:' .. id, ARGV[13])
  redis.call('PEXPIRE', chunks, ARGV[13])
  redis.call('ZREM', due_key(endpoint, 'stream'), id)
  redis.call('SET', p .. 't:' .. id, ARGV[14], 'PX', ARGV[15])
  if has[5] then replaces(id, has[5], ARGV[12]) end
end
redis.call('HSET', row, 'v', version, 'tk', ARGV[3])
return {1, now, version, redis.call('HINCRBY', p .. 'meta', 'changes', 1)}
