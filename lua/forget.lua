-- forget: takes a dead node off its users.
--
-- KEYS[2i+1] -> user:<id> (SET)
-- KEYS[2i+2] -> nodes:{user:<id>} (HASH)
-- ARGV[1] -> the dead node's id
--
-- returns an array with one of these for each user:
--   0  the user still has sessions, or the node held none
--   1  the node held the last session: the user is offline now

local dead = ARGV[1]
local results = {}
for i = 0, #KEYS / 2 - 1 do
  local user, nodes = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local removed, left = 0, 0
  for _, member in ipairs(redis.call('SMEMBERS', user)) do
    if string.match(member, '@(.*)$') == dead then
      removed = removed + redis.call('SREM', user, member)
    else
      left = left + 1
    end
  end
  if left == 0 then redis.call('DEL', nodes) else redis.call('HDEL', nodes, dead) end
  results[i + 1] = (removed > 0 and left == 0) and 1 or 0
end
return results
