-- claim: lease due records of one step, so that nobody else works on them meanwhile.
-- KEYS 1 prefix
-- ARGV 1 token  2 step  3 lease in ms  4 caps and weights as JSON, or ""
--      5 the most changes the caller has heard of  6 number of long fields wanted, then these
--      then pairs: endpoint, how many at most
-- Returns {now, id, row, long values, id, row, long values, ...}
-- Invariant: the same token is handed the same records again (I15). A lease that ends makes its record due again (I5).
-- `max_in_flight` of an endpoint and of a tenant hold exactly, over all processes.
-- Poison: a record that was claimed over and over without a recorded change is worked alone, then parked (HARDENING 14).
-- Of those that are worked one by one under a long lease, `poison_count` counts the one at work.
local token, step, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local fields, first_pair = wanted(6)
local now = ledger_now()
local answer, ids = {now}, {}
if granted_before(token, 'lt', answer, fields) then return answer end

-- Leases one record that was found due. Answers what became of it: "taken", "alone" (taken, and nothing beside it),
-- "later" (it must be worked alone, and others were taken already), or "gone".
local function lease(endpoint, id)
  local row = p .. 'r:' .. id
  local has = sound(id, now)
  if not has then
    redis.call('ZREM', due_key(endpoint, step), id)
    return 'gone'
  end
  local tenant = has[4] or ''
  if not has[1] and redis.call('EXISTS', row) == 0 then
    unstand(endpoint, step, id, tenant)
    return 'gone'
  end
  local version, counted = tonumber(has[1] or '0') + 1, tonumber(has[2] or '0')
  local claims = counted + 1
  if counts_claims(step) then counted = claims end
  if claims > 10 then
    unstand(endpoint, step, id, tenant)
    redis.call('ZADD', due_key(endpoint, 'parked'), now + 86400000, id)
    redis.call('ZADD', p .. 'timer', now + 86400000, id)
    redis.call('HSET', row, 'cl', counted, 'v', version, 'xp', 1, 'du', 'parked')
    return 'gone'
  end
  if claims > 2 and #ids > 0 then return 'later' end -- keeps its place
  unstand(endpoint, step, id, tenant)
  local lease_end = now + lease_ms
  redis.call('HSET', row, 'cl', counted, 'lt', token, 'le', lease_end, 'v', version)
  redis.call('HDEL', row, 'du')
  redis.call('ZADD', p .. 'leased:' .. endpoint, lease_end, id)
  redis.call('ZADD', p .. 'timer', 'LT', lease_end, id)
  if submits(step) then flying(endpoint, tenant, 1) end
  ids[#ids + 1] = id
  hand_out(answer, id, fields)
  return claims > 2 and 'alone' or 'taken'
end

local function claim_due(endpoint, wanted)
  for _, id in ipairs(redis.call('ZRANGE', due_key(endpoint, step), '-inf', now, 'BYSCORE', 'LIMIT', 0, wanted)) do
    if lease(endpoint, id) == 'alone' then return end
  end
end

-- Tenants in turn, each as often as its weight says; within one by priority, then age. No cap is passed: what is
-- leased here counts as in flight from now on, in this same call.
local function claim_submits(endpoint, wanted)
  local rules = ARGV[4] ~= '' and cjson.decode(ARGV[4]) or {}
  local tenants = rules.tenants or {}
  local cap = rules.endpoints and rules.endpoints[endpoint]
  if cap then
    wanted = math.min(wanted, cap - tonumber(redis.call('HGET', p .. 'count:' .. endpoint, 'flying') or '0'))
  end
  local key = due_key(endpoint, step)
  local turns, served = p .. 'turns:' .. endpoint .. ':' .. step, nil
  local line, free, from = {}, false, 0
  repeat -- a thousand at a time: those before somebody who may have more are all at their caps
    local waiting = redis.call('ZRANGE', turns, from, from + 999, 'WITHSCORES')
    for n = 1, #waiting, 2 do
      local name = waiting[n]
      local rule = tenants[name] or (name ~= '' and tenants['*']) or {}
      local room = wanted
      if rule.cap then room = rule.cap - tonumber(redis.call('HGET', p .. 'flying', name) or '0') end
      line[#line + 1] = {name = name, at = tonumber(waiting[n + 1]), step = 1 / (rule.weight or 1), room = room}
      free = free or room > 0
    end
    from = from + 1000
  until free or #waiting < 2000 or from >= 20000
  while wanted > 0 do
    local best
    for _, one in ipairs(line) do
      if one.room > 0 and (not best or one.at < best.at) then best = one end
    end
    if not best then break end
    local id = redis.call('ZRANGE', key .. '~' .. best.name, 0, 0)[1]
    if not id then
      redis.call('ZREM', turns, best.name)
      best.room, best.gone = 0, true
    else
      local became = lease(endpoint, id)
      if became == 'taken' or became == 'alone' then
        served = best.at
        wanted, best.room, best.at = wanted - 1, best.room - 1, best.at + best.step
        best.moved = true
      end
      if became == 'later' then best.room = 0 end
      if became == 'gone' then redis.call('ZREM', key .. '~' .. best.name, id) end
      if became == 'alone' then break end
    end
  end
  if not served then return end
  redis.call('HSET', p .. 'turn', endpoint .. ':' .. step, string.format('%.9f', served))
  for _, one in ipairs(line) do
    -- Who may not have more at the moment saves up nothing for later.
    if not one.gone and (one.moved or one.at < served) then
      redis.call('ZADD', turns, string.format('%.9f', math.max(one.at, served)), one.name)
    end
  end
end

-- A ledger that has lost writes says "never sent" of what was sent: nobody submits until that is sorted out (beat).
if submits(step) then
  local meta = redis.call('HMGET', p .. 'meta', 'changes', 'doubt')
  if meta[2] or tonumber(meta[1] or '0') < tonumber(ARGV[5]) then return answer end
end

for i = first_pair, #ARGV, 2 do
  local endpoint, count = ARGV[i], tonumber(ARGV[i + 1])
  if submits(step) then claim_submits(endpoint, count) else claim_due(endpoint, count) end
end
granted(token, ids, lease_ms)
return answer
