-- gone_unread: how many entries of a stream were taken away before its group had read them (`XADD ... MAXLEN`, `XTRIM`).
-- KEYS 1 prefix  2 the stream
-- ARGV 1 the group  2 entries looked at, at most
-- Returns how many, since this was last asked
-- Invariant: the server counts the entries that were ever added, and those that the group has passed. What is neither passed
-- nor there was taken away unread (I12). To be asked before a read: newer servers count it as passed by that. Where the
-- server is not sure of its count, nothing is said.
local stream, group = KEYS[2], ARGV[1]
if redis.call('TYPE', stream).ok ~= 'stream' then return 0 end

local function field(of, name)
  for i = 1, #of, 2 do
    if of[i] == name then return of[i + 1] end
  end
end

local ours
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if field(each, 'name') == group then ours = each end
end
local passed = ours and field(ours, 'entries-read')
if not passed then return 0 end
local length, pending = redis.call('XLEN', stream), field(ours, 'pending')
local added = field(redis.call('XINFO', 'STREAM', stream), 'entries-added')
if added - passed - length + pending <= 0 then return 0 end -- even if all that is under way is there still

local read, from = field(ours, 'last-delivered-id'), '-'
for under_way = 0, tonumber(ARGV[2]) - 1 do
  local entry = redis.call('XRANGE', stream, from, read, 'COUNT', 1)[1]
  if not entry then
    local gone = added - passed - (length - under_way)
    if gone <= 0 then return 0 end
    redis.call('XGROUP', 'SETID', stream, group, read, 'ENTRIESREAD', passed + gone)
    return gone
  end
  from = '(' .. entry[1]
end
return 0
