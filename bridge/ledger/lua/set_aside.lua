-- set_aside: set public keys aside that are no streams, or have no ids left, so that streams can stand there.
-- KEYS 1 prefix
-- ARGV 1 "read": entries that the bridge is to read stay where they are until it has; or ""  then the keys
-- Returns how many were set aside
-- Invariant: nothing of a stranger's is deleted: it is kept for a week under another name.
local found = 0
for i = 2, #ARGV do
  local key = ARGV[i]
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'stream' and kind ~= 'none' then
    set_aside(key, 'it is a ' .. kind .. ', not a stream')
    found = found + 1
  elseif kind == 'stream' and used_up(key) and (ARGV[1] == '' or redis.call('XLEN', key) == 0) then
    set_aside(key, 'its ids are used up')
    found = found + 1
  end
end
return found
