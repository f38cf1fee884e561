-- reply: write one document to a reply stream, bounded like those that the changes of records write (I16).
-- KEYS 1 prefix  2 the stream
-- ARGV 1 the document  2 entries kept  3 seconds kept
-- Returns the entry's id
-- Invariant: what stands there and is no stream is set aside, and the answer is written.
local id = add(KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'data', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return id
