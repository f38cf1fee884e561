-- claim_chunk_reads: take records whose stream is to be read now: the token is `reading` them from here on (I13).
-- KEYS 1 prefix
-- ARGV 1 token  2 lease in ms  3 number of long fields wanted, then these  then pairs: endpoint, how many at most
-- Returns {now, id, row, long values, ...}
-- Invariant: a read hands its page out only once. So a record that is taken while another reader's lease has run out is
-- marked: that reader may have died with a page. The same token is handed the same records again (I15).
local token, lease_ms = ARGV[1], tonumber(ARGV[2])
local fields, first_pair = wanted(3)
local now = ledger_now()
local answer, ids = {now}, {}
if granted_before(token, 'rd', answer, fields) then return answer end

for i = first_pair, #ARGV, 2 do
  local key = due_key(ARGV[i], 'stream')
  for _, id in ipairs(redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[i + 1])) do
    local row = p .. 'r:' .. id
    local well = sound(id, now)
    local has = well and redis.call('HMGET', row, 'ph', 'sd', 'rd') or {}
    if has[1] ~= 'TRACKED' or has[2] == '1' then
      redis.call('ZREM', key, id)
    else
      if has[3] then redis.call('HSET', row, 'xs', 1) end
      redis.call('HSET', row, 'rd', token)
      redis.call('HINCRBY', row, 'v', 1)
      redis.call('ZADD', key, now + lease_ms, id)
      ids[#ids + 1] = id
      hand_out(answer, id, fields)
    end
  end
end
granted(token, ids, lease_ms)
return answer
