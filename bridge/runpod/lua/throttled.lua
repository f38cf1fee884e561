-- throttled: RunPod said 429: pause as it asked, and go on slower.
-- KEYS 1 prefix
-- ARGV 1 endpoint id  2 operation  3 pause in ms (0: none was asked)  4 cut (part that is left)  5 recovery per second
-- Returns 1 CUT, 0 when a cut of the last second stands for this 429 too
local base = p .. 'budget:' .. ARGV[1] .. ':' .. ARGV[2]
local now = ledger_now()
local cut_at = tonumber(redis.call('HGET', base, 'cut_at') or '0')
local pause = tonumber(ARGV[3])
if pause > 0 then
  local until_now = tonumber(redis.call('HGET', base, 'pause_until') or '0')
  redis.call('HSET', base, 'pause_until', math.max(until_now, now + pause))
end
if now - cut_at < 1000 then return 0 end
local factor = tonumber(redis.call('HGET', base, 'factor') or '1')
if cut_at > 0 then factor = math.min(1, factor + (now - cut_at) / 1000 * tonumber(ARGV[5])) end
redis.call('HSET', base, 'factor', math.max(0.02, factor * tonumber(ARGV[4])), 'cut_at', now)
redis.call('HINCRBY', base, 'cuts', 1)
redis.call('PEXPIRE', base, 3600000)
return 1
