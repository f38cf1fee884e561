-- give_back: return leases that were not used, as if they had never been taken.
-- KEYS 1 prefix
-- ARGV 1 token  2 step  then triples: endpoint, id, score
-- Returns how many were given back. Records that the token no longer holds are left alone (fencing of intents), and those
-- whose POST may have left meanwhile: a call whose answer nobody waited for may be carried out late.
local token, step = ARGV[1], ARGV[2]
local count = 0
for i = 3, #ARGV, 3 do
  local endpoint, id, score = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local row = p .. 'r:' .. id
  local fields = redis.call('HMGET', row, 'lt', 'ph', 'tn')
  if fields[1] == token and (not submits(step) or fields[2] == 'ACCEPTED') then
    redis.call('HDEL', row, 'lt', 'le')
    redis.call('HSET', row, 'du', step)
    if counts_claims(step) then redis.call('HINCRBY', row, 'cl', -1) end
    redis.call('HINCRBY', row, 'v', 1)
    redis.call('ZREM', p .. 'leased:' .. endpoint, id)
    stand(endpoint, step, score, id, fields[3] or '')
    if submits(step) then flying(endpoint, fields[3] or '', -1) end
    count = count + 1
  end
end
return count
