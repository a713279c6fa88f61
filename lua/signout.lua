-- signout: notes that a user's sessions, or one of them, are to close, and says who is connected where.
-- The nodes that hold them are told besides. The note is for one that does not hear that: it was frozen for longer than
-- its lease, and registers its sessions anew when it thaws.
--
-- KEYS[1] -> user:<id> (SET)
-- KEYS[2] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> client id, or '*' for all
-- ARGV[2] -> log TTL, ms
-- ARGV[3] -> Unix ms after which nobody waits for this call: what the network held back may not undo what came since
--
-- returns the Unix ms where it is too late; else an array: the members of the set

local user, cursor, who, log_ttl = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local order = time[1] .. string.format('%06d', time[2])
if now > tonumber(ARGV[3]) then return now end
local MOST = 256 -- notes of a user

local function keep(key, ttl) -- a shared key's TTL never shrinks
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

local members = redis.call('SMEMBERS', user)

-- Whoever was a session has left a position, unless Redis lost it.
local function was_here(client)
  if redis.call('HGET', cursor, client) then return true end
  for _, member in ipairs(members) do
    if string.match(member, '^(.-)@') == client then return true end
  end
  return false
end

-- '@out': '<us> <client, or *> ...', the newest last. Of whom nothing is known comes first: it may be there, and register
-- anew soon, but its note takes nobody's place.
local notes = {}
for at, whose in string.gmatch(redis.call('HGET', cursor, '@out') or '', '(%d+) (%S+)') do
  if who ~= '*' and who ~= whose then notes[#notes + 1] = at .. ' ' .. whose end
end
table.insert(notes, (who == '*' or was_here(who)) and #notes + 1 or 1, order .. ' ' .. who)
redis.call('HSET', cursor, '@out', table.concat(notes, ' ', math.max(#notes - MOST, 0) + 1))
keep(cursor, log_ttl)
return members
