-- release: gives a node id back and leaves nothing behind.
--
-- KEYS[1] -> node:<nodeId> (HASH)
-- KEYS[2] -> inbox:{node:<nodeId>} (STREAM, group node)
-- KEYS[3] -> users:{node:<nodeId>} (SET)
-- ARGV[1] -> boot id of the process
--
-- returns 1 where released, 0 where the id is another's by now

if redis.call('HGET', KEYS[1], 'boot') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
