"""What the transport does on the broker's Redis in one step each: take, set aside, restore, and tidy its keys.

Lua takes nothing back: what was written before an error stays written. So each script looks at the types of its keys
first, and writes where a message goes before it leaves where it was: whatever fails, the message is somewhere (I1). A
key of another type was made by a stranger (`XADD bridge.run`): it is renamed and kept for a week, as the ledger does it
(bridge/ledger/streams/repair.py); here for itself, because the broker may be another server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from bridge.telemetry import tell

ASIDE = "bridge:_:aside:"

_FREE = f"""
local asides = {{}}
local function free(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then return end
  redis.call('RENAME', key, '{ASIDE}' .. key)
  redis.call('EXPIRE', '{ASIDE}' .. key, 604800)
  asides[#asides + 1] = key
  asides[#asides + 1] = 'it is a ' .. found .. ', not a ' .. kind
end
"""

# take: move messages from their lists to the unacked ones.
# KEYS 1 unacked index  2 unacked  3 unreadable, then the lists in the order they are looked at
# ARGV 1 how many at most  2 time of the note, in s  3 unreadable ones kept at most  4 what begins each tag
# Returns {{list, message, tag, ...}, how many are unreadable, {key set aside, why, ...}, what kept it from taking more}
# Invariant: each taking has a tag of its own. Producers may give one to many messages, and the ack of a worker that was
# slow must not take another one's note.
TAKE = f"""{_FREE}
free(KEYS[1], 'zset') free(KEYS[2], 'hash') free(KEYS[3], 'list')
local taken, left, unreadable, fault = {{}}, tonumber(ARGV[1]), 0, false
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  fault = fault or answer.err
end
local function note(item, exchange, key)
  local tag = ARGV[4] .. '-' .. #taken
  if not try('ZADD', KEYS[1], ARGV[2], tag) then return end
  if try('HSET', KEYS[2], tag, '[' .. item .. ', ' .. exchange .. ', ' .. key .. ']') then return tag end
  redis.pcall('ZREM', KEYS[1], tag)
end
for i = 4, #KEYS do
  while left > 0 and not fault do
    local item = redis.pcall('LINDEX', KEYS[i], -1)
    if type(item) == 'table' then
      free(KEYS[i], 'list')
      item = try('LINDEX', KEYS[i], -1)
    end
    if not item then break end
    local ok, tag, exchange, key = pcall(function()
      local properties = cjson.decode(item)['properties']
      local info = properties['delivery_info']
      return properties['delivery_tag'], cjson.encode(info['exchange']), cjson.encode(info['routing_key'])
    end)
    if ok and type(tag) == 'string' then
      local own = note(item, exchange, key)
      if own and try('RPOP', KEYS[i]) then
        taken[#taken + 1], taken[#taken + 2], taken[#taken + 3] = KEYS[i], item, own
        left = left - 1
      elseif own then
        redis.pcall('ZREM', KEYS[1], own)
        redis.pcall('HDEL', KEYS[2], own)
      end
    elseif try('LPUSH', KEYS[3], item) then
      if try('RPOP', KEYS[i]) then
        try('LTRIM', KEYS[3], 0, ARGV[3] - 1)
        unreadable = unreadable + 1
      else
        redis.pcall('LREM', KEYS[3], 1, item)
      end
    end
  end
end
return {{taken, unreadable, asides, fault or ''}}
"""
TAKE_SHA = hashlib.sha1(TAKE.encode()).hexdigest()  # noqa: S324  (Redis names scripts so)

# set aside: what was taken, and is no message after all, goes to the unreadable ones.
# KEYS 1 unacked index  2 unacked  3 unreadable
# ARGV 1 the item, "" for the one that is noted  2 the tag of its note, "" for none  3 unreadable ones kept at most
# Returns {key set aside, why, ...}
_SET_ASIDE = f"""{_FREE}
free(KEYS[1], 'zset') free(KEYS[2], 'hash') free(KEYS[3], 'list')
local item, tag = ARGV[1], ARGV[2]
if tag ~= '' and item == '' then item = redis.call('HGET', KEYS[2], tag) end -- else an empty item is what came
if item then
  redis.call('LPUSH', KEYS[3], item)
  redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
end
redis.call('ZREM', KEYS[1], tag)
redis.call('HDEL', KEYS[2], tag)
return asides
"""

# restore: a message that nobody has acked goes back to its lists.
# KEYS 1 unacked index  2 unacked, then the lists
# ARGV 1 tag  2 its note, as it was read  3 the message  4 LPUSH or RPUSH
# Returns {key set aside, why, ...}
# Invariant: what is no longer noted so was acked or restored by somebody else.
_RESTORE = f"""{_FREE}
free(KEYS[1], 'zset') free(KEYS[2], 'hash')
if ARGV[2] ~= (redis.call('HGET', KEYS[2], ARGV[1]) or '') then return asides end
for i = 3, #KEYS do free(KEYS[i], 'list') end
for i = 3, #KEYS do redis.call(ARGV[4], KEYS[i], ARGV[3]) end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return asides
"""

# tidy: see that every key is what the transport and kombu take it for, and that the server writes.
# KEYS 1 unacked index  2 the lock of those who restore  3 unacked, then others
# ARGV 1 how long the lock is held at most, in s, then the type of each key from 3 on
# Returns {key set aside, why, ...}
# Invariants: a lock without an end, which nobody who restores would ever give up, gets one; a note that the index has
# lost stands in it again, or nobody would ever restore it.
_TIDY = f"""{_FREE}
free(KEYS[1], 'zset') free(KEYS[2], 'string')
for i = 3, #KEYS do free(KEYS[i], ARGV[i - 1]) end
if redis.call('TTL', KEYS[2]) == -1 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
redis.call('ZADD', KEYS[1], 'XX', 0, '')
if redis.call('HLEN', KEYS[3]) > redis.call('ZCARD', KEYS[1]) then
  for _, tag in ipairs(redis.call('HKEYS', KEYS[3])) do
    redis.call('ZADD', KEYS[1], 'NX', redis.call('TIME')[1], tag)
  end
end
return asides
"""


def told_asides(asides: Sequence[bytes]) -> None:
    """Say which keys were set aside, and why."""
    for key, why in zip(asides[::2], asides[1::2], strict=True):
        name = key.decode(errors="replace")
        tell("key.set_aside", key=name, why=why.decode(), kept_in=f"{ASIDE}{name}")


def set_aside(client: Any, keys: Sequence[str], item: bytes, tag: Any, most: int) -> None:
    """`keys`: unacked index, unacked, unreadable. An empty item is the one that is noted under the tag."""
    _run(client, _SET_ASIDE, keys, item, tag, most)


def restore(client: Any, keys: Sequence[str], tag: Any, note: bytes, message: str, *, leftmost: bool) -> None:
    """`keys`: unacked index, unacked, and the lists the message goes to."""
    _run(client, _RESTORE, keys, tag, note, message, "LPUSH" if leftmost else "RPUSH")


def tidy(client: Any, index: str, lock: str, lock_s: int, kinds: dict[str, str]) -> None:
    """`kinds`: the type of each other key, the notes first. Raises ResponseError where the server does not write."""
    _run(client, _TIDY, [index, lock, *kinds], lock_s, *kinds.values())


def _run(client: Any, script: str, keys: Sequence[str], *arguments: Any) -> None:
    told_asides(client.execute_command("EVAL", script, len(keys), *keys, *arguments))
