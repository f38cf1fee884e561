-- claim: lease due records of one step, so that nobody else works on them meanwhile.
-- KEYS 1 prefix
-- ARGV 1 token  2 step  3 lease in ms  4 number of long fields wanted, then these
--      then pairs: endpoint, how many at most
-- Returns {now, id, row, long values, id, row, long values, ...}
-- Invariant: the same token is handed the same records again (I15). A lease that ends makes its record due again (I5).
-- A record that was claimed over and over without a recorded change is worked alone, then parked (HARDENING 14).
local token, step, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local n_fields = tonumber(ARGV[4])
local fields = {}
for i = 1, n_fields do fields[i] = ARGV[4 + i] end
local now = ledger_now()
local answer = {now}
local ids = {}

local function hand_out(id)
  ids[#ids + 1] = id
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGETALL', p .. 'r:' .. id)
  answer[#answer + 1] = redis.call('HMGET', p .. 'd:' .. id, unpack(fields))
end

local before = redis.call('GET', p .. 'grant:' .. token)
if before then
  for id in string.gmatch(before, '[^ ]+') do
    if redis.call('HGET', p .. 'r:' .. id, 'lt') == token then hand_out(id) end
  end
  return answer
end

for i = 5 + n_fields, #ARGV, 2 do
  local endpoint, wanted = ARGV[i], tonumber(ARGV[i + 1])
  local key = due_key(endpoint, step)
  local found
  if step == 'submit' or step == 'submit_sync' then
    found = redis.call('ZRANGE', key, 0, wanted - 1)
  else
    found = redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, wanted)
  end
  for _, id in ipairs(found) do
    local row = p .. 'r:' .. id
    if redis.call('EXISTS', row) == 0 then
      redis.call('ZREM', key, id)
    else
      local claims = redis.call('HINCRBY', row, 'cl', 1)
      if claims > 10 then
        redis.call('ZREM', key, id)
        redis.call('ZADD', due_key(endpoint, 'parked'), now + 86400000, id)
        redis.call('ZADD', p .. 'timer', now + 86400000, id)
        redis.call('HINCRBY', row, 'v', 1)
        redis.call('HSET', row, 'xp', 1, 'du', 'parked')
      elseif claims > 2 and #ids > 0 then
        redis.call('HINCRBY', row, 'cl', -1)  -- keeps its place
      else
        redis.call('ZREM', key, id)
        local lease_end = now + lease_ms
        redis.call('HSET', row, 'lt', token, 'le', lease_end)
        redis.call('HDEL', row, 'du')
        redis.call('HINCRBY', row, 'v', 1)
        redis.call('ZADD', p .. 'leased:' .. endpoint, lease_end, id)
        redis.call('ZADD', p .. 'timer', 'LT', lease_end, id)
        hand_out(id)
        if claims > 2 then break end
      end
    end
  end
end
if #ids > 0 then redis.call('SET', p .. 'grant:' .. token, table.concat(ids, ' '), 'PX', lease_ms) end
return answer
