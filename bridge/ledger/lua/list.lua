-- list: ids of requests that are as wanted, the newest first; one bounded walk along the listing.
-- KEYS 1 prefix
-- ARGV 1 walk on behind this id or ""  2 begin at this ms of ledger time (of that id, where there is one) or ""
--      3 nothing older than this ms or ""  4 how many are wanted  5 how many are looked at, at most
--      6 what an id begins with, or the whole of a job's id or of a replaced task's, or ""
--      then pairs: field of the row, the values wanted as "|A|B|"
-- Returns {looked at, id looked at last or "", its ms, 1 when there is more behind it, id, id, ...}
-- Invariant: nothing is written. Ids whose records are gone are passed over; `tidy` removes them.
local key = p .. 'accepted'
local behind, wanted, most = 0, tonumber(ARGV[4]), tonumber(ARGV[5])
local rank = ARGV[1] ~= '' and redis.call('ZREVRANK', key, ARGV[1])
if rank then behind = rank + 1
elseif ARGV[2] ~= '' then behind = redis.call('ZCOUNT', key, '(' .. ARGV[2], '+inf') end
local least = tonumber(ARGV[3] ~= '' and ARGV[3] or '-inf') or -math.huge
local fields = {'ph', 'jb', 'rp'}
for i = 7, #ARGV, 2 do fields[#fields + 1] = ARGV[i] end

local function matches(id)
  local has = redis.pcall('HMGET', p .. 'r:' .. id, unpack(fields))
  if has.err or not has[1] then return false end
  local text = ARGV[6]
  if text ~= '' and string.sub(id, 1, #text) ~= text and has[2] ~= text and has[3] ~= text then return false end
  for i = 4, #fields do
    if not string.find(ARGV[2 * i], '|' .. (has[i] or '') .. '|', 1, true) then return false end
  end
  return true
end

local answer, looked = {0, '', 0, 0}, 0
local found = redis.call('ZREVRANGE', key, behind, behind + most - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local at = tonumber(found[i + 1])
  if at < least then return answer end
  looked = looked + 1
  answer[1], answer[2], answer[3] = looked, found[i], found[i + 1]
  if matches(found[i]) then
    answer[#answer + 1] = found[i]
    wanted = wanted - 1
    if wanted == 0 then break end
  end
end
if behind + looked < redis.call('ZCARD', key) then answer[4] = 1 end
return answer
