-- heartbeat: renews a node's lease on its users, and keeps what their sessions have confirmed.
--
-- KEYS[4i+1] -> user:<id> (SET)
-- KEYS[4i+2] -> nodes:{user:<id>} (HASH)
-- KEYS[4i+3] -> log:{user:<id>} (STREAM)
-- KEYS[4i+4] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> session TTL, ms
-- ARGV[3] -> log TTL, ms
-- ARGV[4...] -> for each user: how many pairs follow, then so many of: client id, id it has confirmed
--
-- returns an array with one of these for each user:
--   ''    the lease was lost (lapsed, flushed, cleared up by another node), or one of the keys that go with it was
--         (evicted): register the sessions anew
--   <id>[/<lost>]  the lease is renewed; the newest event's id, so that the node sees whether a hint went astray; up to
--         where Redis is known to have lost events, where it is; behind that, after a space, what `presence` has not been
--         told yet: '<entry told last, or 0> <us now> <us> <state> <node> ...'
--   '! error'  where one of the user's keys is broken

local node, session_ttl, log_ttl = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local order = time[1] .. string.format('%06d', time[2])
local lease_end = now + session_ttl
local lease = string.format('%d', lease_end)
local due_each = log_ttl / 8 -- ms

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

-- One user's broken key (of another type, or with something else in it) must not take the rest of the batch along. What
-- is wrong with Redis itself is everyone's, and an error of the whole call.
local function refusal(result)
  local text = string.gsub(type(result) == 'table' and result.err or tostring(result), '%c', ' ')
  local broken = string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true)
  return broken and '! ' .. text or redis.error_reply(text)
end

-- Takes off the user what nodes have left there whose lease has lapsed. Nobody else may come by while the user stays.
local function drop(user, nodes, lapsed)
  for holder in pairs(lapsed) do redis.call('HDEL', nodes, holder) end
  for _, member in ipairs(redis.call('SMEMBERS', user)) do
    if lapsed[string.match(member, '@(.*)$')] then redis.call('SREM', user, member) end
  end
end

local function heartbeat(user, nodes, log, cursor, at, pairs_given)
  local held, last, latest, lapsed = nil, nil, lease_end, nil
  local leases = redis.call('HGETALL', nodes)
  for l = 1, #leases, 2 do
    local holder, value = leases[l], leases[l + 1]
    if holder == node then held = value
    elseif holder == '@last' then last = value
    elseif tonumber(value) > latest then latest = tonumber(value)
    elseif tonumber(value) <= now then
      lapsed = lapsed or {}
      lapsed[holder] = true
    end
  end
  -- Whose coming is on no note has lost the notes, and with them the positions of their sessions.
  local noted = redis.call('HMGET', cursor, '@told', '@owed', '@newest', '@lost')
  if not held or not (noted[1] or noted[2]) then return '' end
  -- Both keys end with the last of the leases.
  local ttl = latest == lease_end and session_ttl or string.format('%d', latest - now)
  if redis.call('PEXPIRE', user, ttl) == 0 then return '' end
  redis.call('HSET', nodes, node, lease)
  redis.call('PEXPIRE', nodes, ttl)
  if lapsed then drop(user, nodes, lapsed) end
  for p = 0, pairs_given - 1 do
    local client, confirmed = ARGV[at + 1 + 2 * p], ARGV[at + 2 + 2 * p]
    local known = redis.call('HGET', cursor, client)
    if not known or newer(confirmed, known) then redis.call('HSET', cursor, client, confirmed) end
  end
  if last and last ~= noted[3] then
    redis.call('HSET', cursor, '@newest', last) -- outlives the leases, and the log
  end
  -- To renew these with each heartbeat would be a fifth of this script's cost. Eight times in a log's TTL are enough,
  -- each where the lease passes into another eighth: whoever leaves, or is cleared up after, renews both as well.
  if math.floor(held / due_each) ~= math.floor(lease_end / due_each) then
    keep(log, log_ttl)
    keep(cursor, log_ttl)
  end
  local newest = (last or '0-0') .. (noted[4] and '/' .. noted[4] or '')
  if not noted[2] then return newest end
  return newest .. ' ' .. string.match(noted[1] or '0', '%S+$') .. ' ' .. order .. ' ' .. noted[2]
end

local results, at = {}, 4
for i = 0, #KEYS / 4 - 1 do
  local pairs_given = tonumber(ARGV[at])
  local done, result = pcall(heartbeat, KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4],
    at, pairs_given)
  if not done then result = refusal(result) end
  if type(result) == 'table' then return result end
  results[i + 1] = result
  at = at + 1 + 2 * pairs_given
end
return results
