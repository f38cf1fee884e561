-- Prepended to every script. Keys are derived from the prefix: the ledger is one standalone Redis (no cluster).
--   <p>r:<id>            hash    the row of one request, short fields
--   <p>d:<id>            hash    its long values
--   <p>o:<id>            string  its output, JSON
--   <p>t:<id>            string  tombstone: what is remembered of a request after its record
--   <p>due:<ep>:<step>   zset    ids by the time (submit: priority and age) they are to be worked at
--   <p>leased:<ep>       zset    ids by the end of their lease
--   <p>tracked:<ep>      zset    ids in TRACKED, by since when
--   <p>gate:<ep>         hash    the gate of bridge.runpod; an operator's pause is written here with its event
--   <p>timer             zset    ids by the earliest of their clocks
--   <public>chunks:<id>  stream  its chunks, JSON; chunk n is entry n+1, so that a reader can go on from a number
--   <p>due:<ep>:stream   zset    ids whose stream is to be read, by when
--   <p>stray             zset    jobs of ended requests still to be cancelled, by due time
--   <p>grant:<token>     string  what a claim handed out, so that a repeated call hands out the same (I15)
--   <p>wish:<id>         string  a cancel that came before its request; <p>wishes zset, by age
--   <p>endpoints         set     names that have ever had a record
--   <p>count:<ep>        hash    records per phase, and sums
--   <p>told:<ep>         hash    the sequence of the endpoint's own events
--   <p>engines           zset    live engines by last beat
--   <p>meta              hash    schema, clock_offset, cursor, changes
local p = KEYS[1]

-- Ledger time in ms (I17): Redis' clock plus the offset that the engines keep.
local function ledger_now()
  local t = redis.call('TIME')
  local offset = redis.call('HGET', p .. 'meta', 'clock_offset')
  return t[1] * 1000 + math.floor(t[2] / 1000) + (tonumber(offset) or 0)
end

local function due_key(endpoint, step) return p .. 'due:' .. endpoint .. ':' .. step end

-- Events leave in the same call as the change (I3). Each is: body, routing key, reply as JSON or "",
-- stream to copy to or "", results flag. The stream is the outbox; trimming is the sweep's.
local function tell(events_stream, args, at, count)
  for _ = 1, count do
    local body, key, reply, copy, result = args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4]
    if reply == '' and result == '' then
      redis.call('XADD', events_stream, '*', 'data', body, 'key', key)
    else
      redis.call('XADD', events_stream, '*', 'data', body, 'key', key, 'reply', reply, 'result', result)
    end
    for stream in string.gmatch(copy, '[^ ]+') do
      redis.call('XADD', stream, 'MAXLEN', '~', 100000, '*', 'data', body)
      redis.call('EXPIRE', stream, 604800)
    end
    at = at + 5
  end
  return at
end
