-- Prepended to every script. Keys are derived from the prefix: the ledger is one standalone Redis (no cluster).
--   <p>r:<id>            hash    the row of one request, short fields
--   <p>d:<id>            hash    its long values
--   <p>o:<id>            string  its output, JSON
--   <p>t:<id>            string  tombstone: what is remembered of a request after its record
--   <p>due:<ep>:<step>   zset    ids by the time (submit: priority and age) they are to be worked at
--   <p>due:<ep>:<step>~<tenant>  zset  the part of a submit set that is one tenant's ("" for those that name none)
--   <p>due:<ep>:scheduled  zset  ids whose `not_before` has not come, by it
--   <p>turns:<ep>:<step> zset    tenants whose turn it may be, by virtual time; <p>turn hash: the virtual time served last
--   <p>flying            hash    jobs in flight by tenant; of an endpoint: `flying` in its count
--   <p>leased:<ep>       zset    ids by the end of their lease
--   <p>tracked:<ep>      zset    ids in TRACKED, by since when
--   <p>gate:<ep>         hash    the gate of bridge.runpod; an operator's pause and purge are written here with their events
--   <p>timer             zset    ids by the earliest of their clocks
--   <public>chunks:<id>  stream  its chunks, JSON; chunk n is entry n+1, so that a reader can go on from a number
--   <p>due:<ep>:stream   zset    ids whose stream is to be read, by when
--   <p>blobs             zset    [id, url] of outputs in the object store, by when to look whether they may go
--   <p>relay             string  who has the turn to tell AMQP
--   <p>monitors          hash    who has the turn to tell Celery's monitors, until when, and the cursor
--   <p>tracer            hash    the same for OpenTelemetry's collector
--   <p>late, late_tries  zset, hash  messages that no queue took: when to try again, and how often it was tried
--   <p>stray             zset    orphans: jobs of ended requests still to be cancelled, by due time
--   <p>grant:<token>     string  what a claim handed out, so that a repeated call hands out the same (I15)
--   <p>wish:<id>         string  a cancel that came before its request; <p>wishes zset, by age
--   <p>wish:<tenant>/<id>  string  the same, for a request of that tenant alone; <p>wishes:<tenant>/ zset
--   <p>replaced:<task>   set     ids of the requests by which a Celery task has replaced itself, by that task's id
--   <p>cb:<lane>         list    callbacks owed, in their order: "<ms owed since> <url>", a line end, the event; a lane is one address of
--                                one request, <8 hex>:<id>
--   <p>cbs:<lane>        hash    the lane: host, token of who calls, tries of the first one, bytes, news (counts what came), skipped
--   <p>cb_due:<host>     zset    lanes by the time they are to be worked at, or the end of their lease; <p>cb_out:<host> zset of leases
--   <p>cb_hosts          zset    hosts (name:port) by when to look at them; <p>cb_host:<host> hash: fails in a row, since when, rests until
--   <p>cb_since          zset    lanes by since when their first one is owed; <p>cb_owed string: how many are owed in all
--   <p>later             zset    Celery ids of control tasks by their ETA; <p>later_messages hash: each whole, JSON
--   <p>later_sent:<id>   string  it was sent on; for an hour
--   <p>batches           zset    [batch, endpoint, endpoint id, base url] of batches that are watched, by the next look
--   <p>batch:<endpoint id>:<batch>  hash  ids of its jobs -> ids of their requests
--   <p>gpu:<day>         hash    executionTime in ms of one day: <ep>, <ep>:<tenant>, <ep>! (paid twice)
--   <p>accepted          zset    ids by when they were accepted: what a listing walks; stale ones are left out, and tidied
--   <p>samples:<ep>      list    how the endpoint stood, every 20 s of the last hour, the newest first
--   <p>endpoints         set     names that have ever had a record
--   <p>count:<ep>        hash    records per phase, and sums
--   <p>runs:<ep>         list    delayTime:executionTime of its last jobs, the newest first
--   <p>told:<ep>         hash    the sequence of the endpoint's own events
--   <p>engines           zset    live engines by last beat
--   <p>asides            hash    public keys that were no streams, or took no more entries: what they were, until it is told
--   <p>aside:<key>       any     what stood there, for a week
--   <p>meta              hash    schema, schema_by, clock_offset, cursor, changes
local p = KEYS[1]

-- Ledger time in ms (I17): Redis' clock plus the offset that the engines keep.
local function ledger_now()
  local t = redis.call('TIME')
  local offset = redis.call('HGET', p .. 'meta', 'clock_offset')
  return t[1] * 1000 + math.floor(t[2] / 1000) + (tonumber(offset) or 0)
end

local function due_key(endpoint, step) return p .. 'due:' .. endpoint .. ':' .. step end

-- Whether a record's keys can be worked on: its {version, claims, end of lease, tenant}, each false where it has none. Those
-- that somebody edited into another form are set aside, so that the others go on (HARDENING 14): named in `unreadable`, and
-- looked at again in an hour.
local NUMBERS = {'v', 'cl', 'le'}

local function sound(id, now)
  local row, long = p .. 'r:' .. id, p .. 'd:' .. id
  local has, kept, fault = redis.pcall('HMGET', row, 'v', 'cl', 'le', 'tn'), redis.pcall('HLEN', long), nil
  if has.err or type(kept) == 'table' then
    fault = 'its keys are no hashes: ' .. redis.call('TYPE', row).ok .. ', ' .. redis.call('TYPE', long).ok
  else
    for i, field in ipairs(NUMBERS) do
      local value = has[i]
      if value and not string.match(value, '^%-?%d+$') then fault = field .. ' is no number: ' .. string.sub(value, 1, 40) end
    end
  end
  if not fault then return has end
  redis.call('HSET', p .. 'unreadable', id, fault)
  redis.call('EXPIRE', p .. 'unreadable', 604800)
  redis.call('ZADD', p .. 'timer', now + 3600000, id)
  return false
end

local function submits(step) return step == 'submit' or step == 'submit_sync' or step == 'submit_batch' end

-- Whether a claim counts as a try of the record (HARDENING 14); where it does not, `poison_count` counts.
local function counts_claims(step) return step ~= 'submit_batch' end

local function tenant_of(id) return redis.call('HGET', p .. 'r:' .. id, 'tn') or '' end

-- Submits stand in their tenant's set too, so that tenants can be served in turn. One that comes (again) begins at the
-- virtual time served last: waiting with nothing to do earns nothing. Who knows the tenant says it.
local function stand(endpoint, step, score, id, tenant)
  local key = due_key(endpoint, step)
  redis.call('ZADD', key, score, id)
  if submits(step) then
    tenant = tenant or tenant_of(id)
    redis.call('ZADD', key .. '~' .. tenant, score, id)
    local served = redis.call('HGET', p .. 'turn', endpoint .. ':' .. step) or '0'
    redis.call('ZADD', p .. 'turns:' .. endpoint .. ':' .. step, 'NX', served, tenant)
  end
end

local function unstand(endpoint, step, id, tenant)
  local key = due_key(endpoint, step)
  redis.call('ZREM', key, id)
  if submits(step) then redis.call('ZREM', key .. '~' .. (tenant or tenant_of(id)), id) end
end

-- In flight is what may be with RunPod, or is leased to be sent there: the number that caps are held against.
local IN_FLIGHT = {SUBMITTING = true, UNANSWERED = true, TRACKED = true, RETRYING = true}

local function flying(endpoint, tenant, change)
  redis.call('HINCRBY', p .. 'count:' .. endpoint, 'flying', change)
  if tenant ~= '' and redis.call('HINCRBY', p .. 'flying', tenant, change) <= 0 then
    redis.call('HDEL', p .. 'flying', tenant)
  end
end

-- Public keys can be written by anybody. One that is no stream, or whose ids have been used up, is set aside, so that what
-- is to be written there is written (I3, I13); nothing of a stranger's is deleted, and `asides` has it told.
local function set_aside(key, why)
  local aside = p .. 'aside:' .. key
  redis.call('RENAME', key, aside)
  redis.call('EXPIRE', aside, 604800)
  redis.call('HSET', p .. 'asides', key, string.sub(why, 1, 200))
  redis.call('EXPIRE', p .. 'asides', 604800)
end

-- Whether a stream can give no further id: somebody has written an entry with the highest one there is.
local HIGHEST = '18446744073709551615-18446744073709551615'

local function used_up(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  for i = 1, info.err and 0 or #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] == HIGHEST end
  end
  return false
end

-- XADD to a public stream, whatever stands there.
local function add(key, ...)
  local answer = redis.pcall('XADD', key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if redis.call('EXISTS', key) == 0 then return redis.call('XADD', key, ...) end
  set_aside(key, answer.err)
  return redis.call('XADD', key, ...)
end

-- The last id that a stream has given, also when its entries were deleted since; 0 for none.
local function last_id(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then return 0 end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
  return 0
end

-- Events leave in the same call as the change (I3). Each is: body, routing key, reply as JSON or "",
-- streams to copy to or "", results flag, callbacks as JSON or "". Without a key it is only copied. The stream is the outbox; others trim it.
-- A copy's stream is bounded by count and, where bodies are large, by bytes (I16).
-- Callbacks are owed from the call on that tells their event (I3): [[lane, host, url], ...]; one without url is only looked at, for
-- the request may have ended. A receiver that takes nothing is owed no more than this of one request; its end always (I16).
local OWED_MAX, OWED_BYTES_MAX = 1000, 16777216

local function owe(owed, body)
  local now = ledger_now()
  for _, one in ipairs(cjson.decode(owed)) do
    local lane, host, url, ends = one[1], one[2], one[3], one[4]
    local list, state = p .. 'cb:' .. lane, p .. 'cbs:' .. lane
    if url ~= '' then
      local entry = string.format('%.0f ', now) .. url .. '\n' .. body
      local length, bytes = redis.call('LLEN', list), tonumber(redis.call('HGET', state, 'bytes') or '0')
      if not ends and (length >= OWED_MAX or bytes + #entry > OWED_BYTES_MAX) then
        redis.call('HINCRBY', state, 'skipped', 1)
      else
        redis.call('RPUSH', list, entry)
        redis.call('HINCRBY', state, 'bytes', #entry)
        redis.call('INCR', p .. 'cb_owed')
        if length == 0 then redis.call('ZADD', p .. 'cb_since', now, lane) end
      end
    end
    redis.call('HINCRBY', state, 'news', 1)
    redis.call('HSET', state, 'host', host)
    redis.call('ZADD', p .. 'cb_due:' .. host, 'NX', now, lane)
    redis.call('ZADD', p .. 'cb_hosts', 'LT', now, host)
  end
end

local function tell(events_stream, args, at, count)
  for _ = 1, count do
    local body, key, reply, copy, result = args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4]
    if key == '' then -- only copied
    elseif reply == '' and result == '' then
      add(events_stream, '*', 'data', body, 'key', key)
    else
      add(events_stream, '*', 'data', body, 'key', key, 'reply', reply, 'result', result)
    end
    if args[at + 5] ~= '' then owe(args[at + 5], body) end
    for stream in string.gmatch(copy, '[^ ]+') do
      add(stream, 'MAXLEN', '~', 100000, '*', 'data', body)
      redis.call('EXPIRE', stream, 604800)
      if #body > 65536 then
        local used, length = redis.call('MEMORY', 'USAGE', stream, 'SAMPLES', 5), redis.call('XLEN', stream)
        if used > 268435456 and length > 1 then
          redis.call('XTRIM', stream, 'MAXLEN', math.max(1, math.floor(length * 268435456 / used)))
        end
      end
    end
    at = at + 6
  end
  return at
end

-- A task that has replaced itself by requests is found by its id while any of them is under way, and as long as the last
-- of them is kept. `closed_ms`: so long is this one kept, which has closed; nil: it is under way. A key that somebody has
-- edited into another type helps nobody, and stops nothing.
local REPLACED_MAX_MS = 400 * 86400000 -- longer than anything waits and runs

local function replaces(id, task, closed_ms)
  local key = p .. 'replaced:' .. task
  if not closed_ms then
    redis.pcall('SADD', key, id)
    redis.pcall('PEXPIRE', key, REPLACED_MAX_MS)
    return
  end
  local count = redis.pcall('SCARD', key)
  if type(count) == 'number' and count > 1 then redis.call('SREM', key, id)
  else redis.call('PEXPIRE', key, closed_ms) end
end

-- GPU time, in the call that writes an end, so that it is booked once: by day (UTC, of Redis' own clock), endpoint,
-- tenant. Bounded: so many days, so many tenants a day; what is more goes to one name that no tenant can have.
local GPU_KEPT_S, GPU_NAMES = 40 * 86400, 10000

local function book(endpoint, tenant, ms, twice_ms)
  local day = math.floor(redis.call('TIME')[1] / 86400)
  local key = p .. 'gpu:' .. string.format('%d', day)
  redis.call('HINCRBY', key, endpoint, ms)
  if tenant ~= '' then
    local field = endpoint .. ':' .. tenant
    if redis.call('HLEN', key) >= GPU_NAMES and redis.call('HEXISTS', key, field) == 0 then field = endpoint .. ':*' end
    redis.call('HINCRBY', key, field, ms)
  end
  if twice_ms > 0 then
    redis.call('HINCRBY', key, endpoint .. '!', twice_ms)
    redis.call('HINCRBY', p .. 'count:' .. endpoint, 'paid_twice_ms', twice_ms)
  end
  redis.call('EXPIRE', key, GPU_KEPT_S)
end

-- Handing records out, as {..., id, row, long values, ...}. `wanted(at)` reads from ARGV how many long fields are wanted,
-- then these, and says where the next argument stands.
local function wanted(at)
  local fields = {}
  for i = 1, tonumber(ARGV[at]) do fields[i] = ARGV[at + i] end
  return fields, at + #fields + 1
end

local function hand_out(answer, id, fields)
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGETALL', p .. 'r:' .. id)
  answer[#answer + 1] = redis.call('HMGET', p .. 'd:' .. id, unpack(fields))
end

-- The same token is handed the same records again (I15): those that still carry it in `field`. False when it is new.
local function granted_before(token, field, answer, fields)
  local before = redis.call('GET', p .. 'grant:' .. token)
  if not before then return false end
  for id in string.gmatch(before, '[^ ]+') do
    if redis.call('HGET', p .. 'r:' .. id, field) == token then hand_out(answer, id, fields) end
  end
  return true
end

local function granted(token, ids, lease_ms)
  if #ids > 0 then redis.call('SET', p .. 'grant:' .. token, table.concat(ids, ' '), 'PX', lease_ms) end
end
