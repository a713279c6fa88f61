-- forget: takes a dead node off its users.
--
-- KEYS[4i+1] -> user:<id> (SET)
-- KEYS[4i+2] -> nodes:{user:<id>} (HASH)
-- KEYS[4i+3] -> log:{user:<id>} (STREAM)
-- KEYS[4i+4] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> the dead node's id
-- ARGV[2] -> log TTL, ms: from now on, because nobody kept the log since the node died
--
-- returns an array with one of these for each user:
--   0  the user still has sessions, or the node held none
--   1  the node held the last session: the user is offline now

local dead, log_ttl = ARGV[1], tonumber(ARGV[2])

local function keep(key, ttl) -- a shared key's TTL never shrinks
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

local results = {}
for i = 0, #KEYS / 4 - 1 do
  local user, nodes = KEYS[4 * i + 1], KEYS[4 * i + 2]
  local removed, left = 0, 0
  for _, member in ipairs(redis.call('SMEMBERS', user)) do
    if string.match(member, '@(.*)$') == dead then
      removed = removed + redis.call('SREM', user, member)
    else
      left = left + 1
    end
  end
  if left == 0 then redis.call('DEL', nodes) else redis.call('HDEL', nodes, dead) end
  keep(KEYS[4 * i + 3], log_ttl)
  keep(KEYS[4 * i + 4], log_ttl)
  results[i + 1] = (removed > 0 and left == 0) and 1 or 0
end
return results
