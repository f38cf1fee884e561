-- orphan_seen: a job that no longer counts was looked at: look again, or forget it and book what it cost.
-- KEYS 1 prefix
-- ARGV 1 member  2 endpoint  3 request id  4 ms until the next look, or "" to forget it  5 its executionTime in ms
-- Returns 1 when something changed
-- Invariant: it is booked by the call that takes it out, so a repeated call books nothing twice (I15); and whoever looked
-- so long that another has taken it out meanwhile does not bring it back, to be booked again.
if ARGV[4] ~= '' then
  return redis.call('ZADD', p .. 'stray', 'XX', 'CH', ledger_now() + tonumber(ARGV[4]), ARGV[1])
end
if redis.call('ZREM', p .. 'stray', ARGV[1]) == 0 then return 0 end
local cost = tonumber(ARGV[5])
if cost > 0 then book(ARGV[2], tenant_of(ARGV[3]), cost, cost) end
return 1
