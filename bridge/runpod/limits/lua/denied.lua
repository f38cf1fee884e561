-- denied: a submit was not taken, while the endpoint answers its health: is it about this request, or about all submits?
-- KEYS 1 prefix
-- ARGV 1 endpoint  2 request  3 reason  4 what was said  5 "1" when RunPod itself does not answer so
--      6 when this request was denied before (ms), 0 never  7 when the caller last saw a submit answered (ms), 0 never
--      8 first pause in ms  9 longest pause in ms  10 ms for which an answered submit speaks for the others
--      11 so many requests in a row close the gate  12 the same for foreign answers
-- Returns {verdict, news}: FIRST 0 (not known yet)  OWN 1 (others get through, or nobody else was asked)  SHARED 2 (not its own);
--      news 1 when this closed the gate
-- Invariant: one request alone closes no gate, and no request is blamed while nobody gets through.
local gate, request = p .. 'gate:' .. ARGV[1], ARGV[2]
local now, before, foreign = ledger_now(), tonumber(ARGV[6]), ARGV[5] == '1'
local known = redis.call('HMGET', gate, 'reason', 'run_ok', 'suspect', 'suspects')
local ok = math.max(tonumber(known[2] or '0'), tonumber(ARGV[7]))
local suspects = tonumber(known[4] or '0')
if known[3] ~= request then suspects = suspects + 1 end
redis.call('HSET', gate, 'suspect', request, 'suspects', suspects, 'run_ok', ok)
local longest = tonumber(ARGV[9])
if known[1] then
  return {2, close_gate(gate, now, ARGV[3], ARGV[4], request, tonumber(ARGV[8]), longest)}
end
local silent = now - ok > tonumber(ARGV[10])
if suspects >= tonumber(foreign and ARGV[12] or ARGV[11]) and silent then
  redis.call('HSET', gate, 'scope', 'run')
  return {2, close_gate(gate, now, ARGV[3], ARGV[4], request, tonumber(ARGV[8]), longest)}
end
if before == 0 then return {0, 0} end
if ok > before or foreign then return {1, 0} end
return {2, 0}
