-- repair_inbox_group: see that what stands in a stream can be read, and that more can be written to it.
-- KEYS 1 prefix  2 the stream
-- ARGV 1 the group  2 entries looked at, at most
-- Returns {"", ""}, {"aside", ""} when it was set aside, {"back", where the group reads on}, or
-- {"lasts", ""}: it had an expiry
-- Invariant: an entry that the bridge has done with is gone. So one at or before the place to which the group has read is
-- under way with some consumer; one that is not would never be read: somebody has moved the group, or acked for it.
-- The group goes back to before the first of them; what is handed out twice by that is the same request (I2).
local stream, group = KEYS[2], ARGV[1]
if redis.call('TYPE', stream).ok ~= 'stream' then return {'', ''} end -- whoever reads meets it
if used_up(stream) and redis.call('XLEN', stream) == 0 then
  set_aside(stream, 'its ids are used up')
  return {'aside', ''}
end
if redis.call('PERSIST', stream) == 1 then return {'lasts', ''} end -- with it unread entries would go, and nobody would know

-- Ids have more digits than a number holds.
local function above(one, other)
  local ms, n = string.match(one, '^(%d+)-(%d+)$')
  local its_ms, its_n = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= its_ms then
    if #ms ~= #its_ms then return #ms > #its_ms end
    return ms > its_ms
  end
  if #n ~= #its_n then return #n > #its_n end
  return n > its_n
end

local function field(of, name)
  for i = 1, #of, 2 do
    if of[i] == name then return of[i + 1] end
  end
end

local info, ours = redis.call('XINFO', 'STREAM', stream), nil
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if field(each, 'name') == group then ours = each end
end
if not ours then return {'', ''} end
local last, read = field(info, 'last-generated-id'), field(ours, 'last-delivered-id')
local before, from = '0-0', '-'
for _ = 1, tonumber(ARGV[2]) do
  local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  if not entry or above(entry[1], read) then break end
  if #redis.call('XPENDING', stream, group, entry[1], entry[1], 1) == 0 then
    redis.call('XGROUP', 'SETID', stream, group, before)
    return {'back', before}
  end
  before, from = entry[1], '(' .. entry[1]
end
if above(read, last) then
  redis.call('XGROUP', 'SETID', stream, group, last)
  return {'back', last}
end
return {'', ''}
