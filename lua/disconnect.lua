-- disconnect: takes sessions off their users, and keeps what each has confirmed.
--
-- KEYS[4i+1] -> user:<id> (SET)
-- KEYS[4i+2] -> nodes:{user:<id>} (HASH)
-- KEYS[4i+3] -> log:{user:<id>} (STREAM)
-- KEYS[4i+4] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> log TTL, ms
-- ARGV[2i+3] -> client id
-- ARGV[2i+4] -> id the client has confirmed, or ''
--
-- returns an array with one of these for each session:
--   '1' where the node has other sessions of the user, else '0'; behind it, after a space, nothing, or what `presence`
--     has not been told yet: '<entry told last, or 0> <us> <state> <node> ...'
--   '! error'  where one of the user's keys is broken; its set was left first, if it is one

local node, log_ttl = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local order = time[1] .. string.format('%06d', time[2])

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function newer(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  return a_ms > b_ms or (a_ms == b_ms and a_seq > b_seq)
end

local function keep(key, ttl) -- a shared key's TTL never shrinks
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Nobody is left: an edge, where someone was. It is noted here until an entry on `presence` says so, so that it
-- outlives a node that dies in between. '@told' is the last edge told, '<state> <entry>'; '@owed' what comes after
-- it, '<us> <state> <node> ...'.
local function owed_edges(cursor, nobody, removed)
  local noted = redis.call('HMGET', cursor, '@told', '@owed')
  local told, owed = noted[1] or 'offline 0', noted[2]
  local state = owed and string.match(owed, '(%S+) %S+$') or string.match(told, '^%S+')
  if nobody and (state == 'online' or (removed > 0 and not noted[1] and not owed)) then
    owed = (owed or order) .. ' offline ' .. node
    redis.call('HSET', cursor, '@owed', owed)
  end
  return owed and string.match(told, '%S+$') .. ' ' .. owed or ''
end

-- One user's broken key (of another type, or with something else in it) must not take the rest of the batch along. What
-- is wrong with Redis itself is everyone's, and an error of the whole call.
local function refusal(result)
  local text = string.gsub(type(result) == 'table' and result.err or tostring(result), '%c', ' ')
  local broken = string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true)
  return broken and '! ' .. text or redis.error_reply(text)
end

local function disconnect(user, nodes, log, cursor, client, confirmed)
  local removed = redis.call('SREM', user, client .. '@' .. node)
  local members, ours = redis.call('SMEMBERS', user), false
  for _, member in ipairs(members) do
    if string.match(member, '@(.*)$') == node then ours = true end
  end
  if #members == 0 then
    local last = redis.call('HGET', nodes, '@last')
    if last then redis.call('HSET', cursor, '@newest', last) end -- outlives the log, should Redis evict that
    redis.call('DEL', nodes)
  elseif not ours then
    redis.call('HDEL', nodes, node)
  end

  if confirmed ~= '' then
    local known = redis.call('HGET', cursor, client)
    if not known or newer(confirmed, known) then redis.call('HSET', cursor, client, confirmed) end
  end
  local edges = owed_edges(cursor, #members == 0, removed)
  keep(cursor, log_ttl)
  keep(log, log_ttl)
  return (ours and '1 ' or '0 ') .. edges
end

local results = {}
for i = 0, #KEYS / 4 - 1 do
  local done, result = pcall(disconnect, KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4],
    ARGV[2 * i + 3], ARGV[2 * i + 4])
  if not done then result = refusal(result) end
  if type(result) == 'table' then return result end
  results[i + 1] = result
end
return results
