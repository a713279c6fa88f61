-- disconnect: takes sessions off their users, and keeps what each has confirmed.
--
-- KEYS[4i+1] -> user:<id> (SET)
-- KEYS[4i+2] -> nodes:{user:<id>} (HASH)
-- KEYS[4i+3] -> log:{user:<id>} (STREAM)
-- KEYS[4i+4] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> log TTL, ms: from now on, because nobody has kept the log since, where the node is dead
-- ARGV[3] -> Unix ms after which nobody waits for this call: what the network held back may not undo what came since
-- ARGV[2i+4] -> client id; '*': all that the node has of the user; '': none, only what is owed is asked
-- ARGV[2i+5] -> id the client has confirmed, or ''
--
-- returns the Unix ms where it is too late; else an array with one of these for each session:
--   '1' where the node has other sessions of the user, else '0'; behind it, after a space, nothing, or what `presence`
--     has not been told yet: '<entry told last, or 0> <us now> <us> <state> <node> ...'
--   '! error'  where one of the user's keys is broken; its set was left first, if it is one

local node, log_ttl = ARGV[1], ARGV[2]
local call = redis.call -- what every session needs: looking it up takes time
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local order = time[1] .. string.format('%06d', time[2])

local function newer(a, b) -- as texts: as numbers, those of more than 15 digits would be rounded
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
  return #a_ms > #b_ms or (#a_ms == #b_ms and a_ms > b_ms)
end

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
  return owed and told .. ' ' .. order .. ' ' .. owed or ''
end

-- One user's broken key (of another type, or with something else in it) must not take the rest of the batch along. What
-- is wrong with Redis itself is everyone's, and an error of the whole call.
local function refusal(result)
  local text = string.gsub(type(result) == 'table' and result.err or tostring(result), '%c', ' ')
  local broken = string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true)
  return broken and '! ' .. text or redis.error_reply(text)
end

local function disconnect(user, nodes, log, cursor, client, confirmed)
  local all, removed, left, ours, last = client == '*', 0, 0, false, nil
  if not all then removed = call('SREM', user, client .. '@' .. node) end
  for _, member in ipairs(call('SMEMBERS', user)) do
    local here = string.match(member, '@(.*)$') == node
    if all and here then
      removed = removed + call('SREM', user, member)
    else
      left, ours = left + 1, ours or here
    end
  end
  if left == 0 then last = call('HGET', nodes, '@last')
  elseif not ours then call('HDEL', nodes, node) end

  local noted, notes = call('HMGET', cursor, client, '@told', '@owed'), {}
  local edges = owed_edges(noted[2], noted[3], left == 0, removed, notes)
  -- It outlives the log, should Redis evict that.
  if last then notes[#notes + 1], notes[#notes + 2] = '@newest', last end
  if confirmed ~= '' and not (noted[1] and not newer(confirmed, noted[1])) then
    notes[#notes + 1], notes[#notes + 2] = client, confirmed
  end
  if notes[1] then call('HSET', cursor, unpack(notes)) end
  if left == 0 then call('DEL', nodes) end
  keep(cursor, log_ttl)
  keep(log, log_ttl)
  return (ours and '1 ' or '0 ') .. edges
end

if now > tonumber(ARGV[3]) then return now end
local results = {}
for i = 0, #KEYS / 4 - 1 do
  local done, result = pcall(disconnect, KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4],
    ARGV[2 * i + 4], ARGV[2 * i + 5])
  if not done then result = refusal(result) end
  if type(result) == 'table' then return result end
  results[i + 1] = result
end
return results
