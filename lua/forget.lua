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
--   '', or what `presence` has not been told yet: '<entry told last, or 0> <us> <state> <node> ...'
--   '! error'  where one of the user's keys is broken; its set was left first, if it is one

local node, log_ttl = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local order = time[1] .. string.format('%06d', time[2])

local function keep(key, ttl) -- a shared key's TTL never shrinks
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Nobody is left: an edge, where someone was. It is noted here until an entry on `presence` says so, so that it
-- outlives a node that dies in between. '@told' is the last edge told, '<state> <entry>'; '@owed' what comes after
-- it, '<us> <state> <node> ...'. What is to be noted goes into `notes`.
local function owed_edges(noted_told, noted_owed, nobody, removed, notes)
  local owed, state, told = noted_owed, 'offline', '0'
  if noted_told then state, told = string.match(noted_told, '^(%S+) (%S+)$') end
  if owed then state = string.match(owed, '(%S+) %S+$') end
  if nobody and (state == 'online' or (removed > 0 and not noted_told and not owed)) then
    owed = (owed or order) .. ' offline ' .. node
    notes[#notes + 1], notes[#notes + 2] = '@owed', owed
  end
  return owed and told .. ' ' .. owed or ''
end

-- One user's broken key (of another type, or with something else in it) must not take the rest of the batch along. What
-- is wrong with Redis itself is everyone's, and an error of the whole call.
local function refusal(result)
  local text = string.gsub(type(result) == 'table' and result.err or tostring(result), '%c', ' ')
  local broken = string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true)
  return broken and '! ' .. text or redis.error_reply(text)
end

local function forget(user, nodes, log, cursor)
  local removed, left, last = 0, 0, nil
  for _, member in ipairs(redis.call('SMEMBERS', user)) do
    if string.match(member, '@(.*)$') == node then
      removed = removed + redis.call('SREM', user, member)
    else
      left = left + 1
    end
  end
  if left == 0 then last = redis.call('HGET', nodes, '@last')
  else redis.call('HDEL', nodes, node) end
  local noted, notes = redis.call('HMGET', cursor, '@told', '@owed'), {}
  local edges = owed_edges(noted[1], noted[2], left == 0, removed, notes)
  -- It outlives the log, should Redis evict that.
  if last then notes[#notes + 1], notes[#notes + 2] = '@newest', last end
  if notes[1] then redis.call('HSET', cursor, unpack(notes)) end
  if left == 0 then redis.call('DEL', nodes) end
  keep(log, log_ttl)
  keep(cursor, log_ttl)
  return edges
end

local results = {}
for i = 0, #KEYS / 4 - 1 do
  local done, result = pcall(forget, KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4])
  if not done then result = refusal(result) end
  if type(result) == 'table' then return result end
  results[i + 1] = result
end
return results
