-- first_and_last: the first and the last entry that stand in a stream of the doors, by their ids alone: an entry may be large.
-- KEYS 1 prefix  2 the stream
-- Returns {"", ""} for an empty stream, and for what is none; else {id of the first, id of the last}
-- Invariant: an entry that the bridge has done with is gone, so what stands there waits, or is being taken.
local stream = KEYS[2]
if redis.call('TYPE', stream).ok ~= 'stream' or redis.call('XLEN', stream) == 0 then return {'', ''} end
return {
  redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1],
  redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1],
}
