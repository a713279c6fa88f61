-- claim: takes a node id for one process, unless another holds it.
-- The inbox begins anew: what is in it was meant for sockets that are gone, and waits in the logs.
--
-- KEYS[1] -> node:<nodeId> (HASH)
-- KEYS[2] -> inbox:{node:<nodeId>} (STREAM, group node)
-- KEYS[3] -> users:{node:<nodeId>} (SET)
-- ARGV[1] -> boot id of the process, a ULID
-- ARGV[2] -> node TTL, ms
-- ARGV[3] -> session TTL, ms
-- ARGV[4] -> version of the program
-- ARGV[5] -> address for clients
-- ARGV[6] -> address for workers
-- ARGV[7] -> how long the set of users is kept, ms
-- ARGV[8] -> form of keys and entries that the process knows; noted where it is not the first
-- ARGV[9] -> what the process was told as `now` by its first claim; 0 where this is the first
--
-- returns {1, now, left} where the id is ours: Redis clock in Unix ms, users that an earlier process left behind
--         {2, now, left} where it was ours until now, and its lease has not lapsed since
--         {0, ttl, version} where another process holds it: ms until its lease lapses, its version ('' while a
--                           surviving node clears up after the id's last owner, which takes a moment)

local node, inbox, users = KEYS[1], KEYS[2], KEYS[3]
local boot, node_ttl, session_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local format = ARGV[8]

local owner = redis.call('HMGET', node, 'boot', 'version')
if owner[1] and owner[1] ~= boot then return { 0, redis.call('PTTL', node), owner[2] or '' } end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local started = ARGV[9] == '0' and now or ARGV[9]
redis.call('DEL', inbox)
redis.call('XGROUP', 'CREATE', inbox, 'node', '0', 'MKSTREAM')
redis.call('PEXPIRE', inbox, session_ttl + node_ttl)
redis.call('PEXPIRE', users, ARGV[7]) -- whoever is back first, if all go, tells who is offline
redis.call('HSET', node, 'boot', boot, 'started', started, 'version', ARGV[4], 'sessions', 0,
  'client_url', ARGV[5], 'worker_url', ARGV[6])
if format ~= '1' then redis.call('HSET', node, 'format', format) end
redis.call('PEXPIRE', node, node_ttl)
return { owner[1] and 2 or 1, now, redis.call('SCARD', users) }
