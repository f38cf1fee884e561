-- endpoint: change what is kept of an endpoint, together with the event that tells it, or nothing.
-- KEYS 1 prefix  2 events stream
-- ARGV 1 endpoint  2 sequence it was made from  3 token of this change
--      4 number of values to set  5 number of fields to drop, then these lists, then the event
--      A value "@now" is the time since which its endpoint is paused: no news, and not moved by a pause of a paused one.
-- Returns {1, now} WRITTEN (also when this very change was written before: I15)
--         {0, now, sequence} STALE: number the event anew   {2, now} SAME: it is so already, nothing is told
-- Invariant: a change and its event are one (I3); an endpoint's events are numbered 1, 2, 3 without a gap.
local told, kept = p .. 'told:' .. ARGV[1], p .. 'gate:' .. ARGV[1]
local now = ledger_now()
local has = redis.call('HMGET', told, 'sq', 'tk')
if has[2] == ARGV[3] then return {1, now} end
if (has[1] or '0') ~= ARGV[2] then return {0, now, tonumber(has[1])} end
local n_put, n_drop = tonumber(ARGV[4]), tonumber(ARGV[5])
local news = false
for i = 6, 5 + 2 * n_put, 2 do
  if ARGV[i + 1] ~= '@now' and redis.call('HGET', kept, ARGV[i]) ~= ARGV[i + 1] then news = true end
end
local at = 6 + 2 * n_put
for i = at, at + n_drop - 1 do
  if redis.call('HEXISTS', kept, ARGV[i]) == 1 then news = true end
end
if not news then return {2, now} end
for i = 6, 5 + 2 * n_put, 2 do
  if ARGV[i + 1] == '@now' then
    local since = redis.call('HEXISTS', kept, 'paused') == 1 and redis.call('HGET', kept, ARGV[i])
    ARGV[i + 1] = since or tostring(now)
  end
end
if n_put > 0 then redis.call('HSET', kept, unpack(ARGV, 6, 5 + 2 * n_put)) end
if n_drop > 0 then redis.call('HDEL', kept, unpack(ARGV, at, at + n_drop - 1)) end
redis.call('HSET', told, 'sq', tonumber(ARGV[2]) + 1, 'tk', ARGV[3])
tell(KEYS[2], ARGV, at + n_drop, 1)
return {1, now}
