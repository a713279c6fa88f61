-- lead: takes, renews or gives back the lease on the ingress stream; whoever has it reads.
--
-- KEYS[1] -> lease:{events} (STRING: node id and boot id, with a space between)
-- ARGV[1] -> who asks: node id and boot id
-- ARGV[2] -> lease, ms; 0 gives it back
--
-- returns 1 where the lease is ours now, 0 where it is not

local lease, reader, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2])

local owner = redis.call('GET', lease)
if owner and owner ~= reader then return 0 end
if ttl == 0 then
  redis.call('DEL', lease)
  return 0
end
redis.call('SET', lease, reader, 'PX', ttl)
return 1
