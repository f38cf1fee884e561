-- aside: set public keys aside that are no streams, so that streams can stand there.
-- KEYS 1 prefix
-- ARGV the keys
-- Returns how many were set aside
-- Invariant: nothing of a stranger's is deleted: it is kept for a week under another name.
local found = 0
for _, key in ipairs(ARGV) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'stream' and kind ~= 'none' then
    set_aside(key, 'it is a ' .. kind .. ', not a stream')
    found = found + 1
  end
end
return found
