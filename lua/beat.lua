-- beat: renews a node's own lease, if it still has it.
--
-- KEYS[1] -> node:<nodeId> (HASH)
-- KEYS[2] -> inbox:{node:<nodeId>} (STREAM, group node)
-- KEYS[3] -> users:{node:<nodeId>} (SET)
-- ARGV[1] -> boot id of the process
-- ARGV[2] -> node TTL, ms
-- ARGV[3] -> session TTL, ms
-- ARGV[4] -> sessions the node holds
-- ARGV[5] -> how long the set of users is kept, ms
--
-- returns {now, users} where renewed: Redis clock in Unix ms; how many users are on the set, or why that cannot be told
--         {} where the lease was lost, whoever has it now

local node, inbox, users = KEYS[1], KEYS[2], KEYS[3]
local node_ttl, session_ttl = tonumber(ARGV[2]), tonumber(ARGV[3])

-- Nothing here takes a right that a claim does without: a node that lacks it would claim its id again and again.
if redis.call('HMGET', node, 'boot')[1] ~= ARGV[1] then return {} end
redis.call('HSET', node, 'sessions', ARGV[4])
redis.call('PEXPIRE', node, node_ttl)
redis.call('PEXPIRE', inbox, session_ttl + node_ttl)
redis.call('PEXPIRE', users, ARGV[5]) -- whoever is back first, if all go, tells who is offline
local served = redis.pcall('SCARD', users)
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), type(served) == 'table' and served.err or served }
