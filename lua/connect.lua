-- connect: registers sessions, and reads for each one page of what it has missed.
-- The same verb opens a session, registers it anew after a lost lease, and lets a slow one catch up:
-- it may be repeated at will. Registration and read are one step, so no event falls between them.
--
-- KEYS[4i+1] -> user:<id> (SET)
-- KEYS[4i+2] -> nodes:{user:<id>} (HASH)
-- KEYS[4i+3] -> log:{user:<id>} (STREAM)
-- KEYS[4i+4] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> session TTL, ms
-- ARGV[3] -> log TTL, ms
-- ARGV[4] -> sessions a user may have over all nodes
-- ARGV[5] -> Unix ms after which this data set is known to be whole
-- ARGV[6] -> log length, entries
-- ARGV[7] -> Unix ms after which nobody waits for this call: what the network held back may not undo what came since
-- ARGV[7i+8] -> client id
-- ARGV[7i+9] -> 'new': replaces an older connection of the client; else the order of a connection that was registered
--   before and resumes: it yields to a newer one, and to a sign-out since
-- ARGV[7i+10] -> id after which to read, or '' for the client's confirmed position
-- ARGV[7i+11] -> id that the client has confirmed, as its node knows, or ''; new: counts where no newer position is known;
--   resume: kept where none is known
-- ARGV[7i+12] -> resume: the newest event that the session was told of, or ''
-- ARGV[7i+13] -> resume: whether Redis is known to have lost that one (1|0)
-- ARGV[7i+14] -> resume: `knows` of the last time
--
-- returns the Unix ms where it is too late; else an array with one of these for each session (values in an array of
-- their own would be read one by one):
--   'later'     this call has read enough; not registered, but what had lapsed is gone
--   'full'      the user has as many sessions as allowed; nothing was written
--   '! error'   Redis refused this one
--   'replaced'  resume only: the client has since connected elsewhere; nothing was written
--   'out'       resume only: the client was signed out since; nothing was written
--   'ok position from whole (1|0) replayed upto more (1|0) order anew (1|0) knows heard tell edges', or {that, entries}
--     position: newest event id, or the clock; from: read after this id; whole: nothing after `from` is missing (where
--     what is missing came before what the session has got since, `from` is before that);
--     replayed: events for this client after `from`, where they are large at least so many (who resumes: in this page);
--     upto: the page covers (from, upto]; more: there is more; order: Redis clock, us;
--     anew: the node had no lease on the user, so sessions that it has besides are not registered;
--     knows: what Redis has lost before this id the session has been told of, or it began later;
--     heard: the newest event there was, as far as is known;
--     tell: '-' for none; new: the node whose connection of this client is replaced; resume: '<client>@<node>/...', who
--     are to look, since a loss is noted now;
--     edges: none, or what `presence` has not been told yet: <entry told last, or 0> <us now> <us> <state> <node> ...
--     entries: {id, event, data, ...}

local node, session_ttl, log_ttl = ARGV[1], ARGV[2], ARGV[3] -- as texts: Redis would have to print numbers
local session_ms, log_ms = tonumber(session_ttl), tonumber(log_ttl)
local call = redis.call -- what every session needs: looking it up takes time
local max_sessions, whole_since, log_length = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local order = time[1] .. string.format('%06d', time[2])
local lease_end = string.format('%d', now + session_ms)
local A_DAY = 86400000
-- No event is newer: one of this very millisecond must still come after it. Nor is it of the time before this data set, of
-- which nothing is known.
local empty_since = string.format('%d-0', math.max(now - 1, whole_since + 1)) -- where the log is empty now
local clock = whole_since < now + A_DAY and empty_since or string.format('%d-0', now - 1)
-- Positions of clients that are gone: so many are kept when there are more than so many of all.
local KEPT_POSITIONS, MOST_POSITIONS = 512, 1024
local PAGE_ENTRIES, PAGE_BYTES, CHUNK = 64, 262144, 16 -- a page is what one session may hold in memory
local COUNT_BYTES, CALL_BYTES, ENTRY = 1048576, 262144, 256 -- an entry costs as much as so many bytes, however small it is
local spent = 0 -- bytes of events that this call has read

local function ms_of(id)
  return tonumber(string.match(id, '^(%d+)-%d+$'))
end

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

local function named(fields)
  local values = {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  return values
end

-- The id before an entry; of the log's oldest: what is not newer has been cut off. Where a newer event of its collapse key
-- took the place of the one before, '@prev:<entry>' has the id before that.
local function before(cursor, entry)
  local carried = redis.call('HGET', cursor, '@prev:' .. entry[1])
  if carried then return carried end
  for f = 1, #entry[2], 2 do
    if entry[2][f] == 'prev' then return entry[2][f + 1] end
  end
  return '0-0'
end

-- The newer of two ids, of which either may be missing.
local function newest_of(a, b)
  if a and b then return newer(b, a) and b or a end
  return a or b
end

-- Is every event after `since` either in the log, or replaced there by a newer one of its collapse key? Whoever was told an
-- id that is as young as a log may be has left a cursor: where there is none, Redis has lost it, and perhaps the log.
-- `known`: the newest event there was, as far as is known beside the log.
local function is_whole(log, cursor, since, newest, known, has_cursor)
  local since_ms = ms_of(since)
  if not newest then
    -- An event since then is still kept; publishing renews the log's time to live once a second, a short one oftener.
    local young = now - log_ms + (log_ms < 100000 and 100 or 1000)
    local empty = redis.call('HGET', cursor, '@empty') -- no event since this id; of what was before, nothing is known
    if empty and ms_of(empty) > now then empty = nil end -- the clock has gone back, or it is a time that never comes
    local remembered = not empty and has_cursor and since_ms > young and since_ms > whole_since
    -- A log that is empty although an event was published after `since`: it lapsed, or Redis threw it away.
    if known and since ~= '0-0' then return since_ms <= now and not newer(known, since) end
    return since == '0-0' or (since_ms <= now and (remembered or (empty and not newer(empty, since))))
  end
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local prev = before(cursor, oldest)
  if since == '0-0' then return prev == '0-0' end
  if newer(since, newest) then return false end
  if not newer(oldest[1], since) then return true end
  if prev ~= '0-0' then return not newer(prev, since) end
  local start = redis.call('HGET', cursor, '@start') -- there was no event between this id and the log's first
  return start and not newer(start, since) or false
end

-- A session of the caller was told of an event that the log does not have, nor says that it had: Redis came back without
-- its newest. Returns the id behind that event, which nobody has: whoever stands before it may have missed something.
-- `known`: the same of an earlier time, or nil. `newest` may be known of a log that has lapsed.
local function behind_lost(log, newest, is_empty, known, since, told)
  local function is_news(id) return id ~= '' and not (known and not newer(id, known)) end
  local event, lost = told.event, nil
  if is_empty then -- there, `since` may be the clock
    if is_news(event) and newer(event, newest) then lost = event end
  elseif is_news(event) and newer(newest, event) then
    local after = not told.is_lost and redis.call('XRANGE', log, '(' .. event, '+', 'COUNT', 1)[1]
    local prev = after and named(after[2]).prev
    lost = (told.is_lost or prev and newer(event, prev)) and event
  else
    if is_news(event) and newer(event, newest) then lost = event end
    if is_news(since) and newer(since, lost or newest) then lost = since end
  end
  if not lost or ms_of(lost) >= now + A_DAY then return known end
  local ms, seq = string.match(lost, '^(%d+)-(%d+)$')
  lost = ms .. '-' .. string.format('%d', seq + 1)
  -- Ids must go on behind it, wherever the clock stands. (Of an empty log, publishing sees to that.)
  if not is_empty and newer(lost, newest) and redis.pcall('XSETID', log, lost).err then return known end
  return lost
end

-- Drops nodes whose lease has lapsed. Returns who is left, the leases there were, the newest event's id as far as it is
-- noted with them, and whether this node has a lease.
local function prune(user, nodes)
  local leases, members, lapsed, last, held = call('HGETALL', nodes), call('SMEMBERS', user)
  for i = 1, #leases, 2 do
    if leases[i] == '@last' then last = leases[i + 1]
    elseif tonumber(leases[i + 1]) <= now then
      lapsed = lapsed or {}
      lapsed[leases[i]] = true
      redis.call('HDEL', nodes, leases[i])
    elseif leases[i] == node then held = true
    end
  end
  if lapsed then
    local left = {}
    for _, member in ipairs(members) do
      if lapsed[string.match(member, '@(.*)$')] then redis.call('SREM', user, member)
      else left[#left + 1] = member end
    end
    members = left
  end
  return members, leases, last, held
end

-- Someone is there: an edge, where nobody was. It is noted here until an entry on `presence` says so, so that it
-- outlives a node that dies in between. '@told' is the last edge told, '<state> <entry>'; '@owed' what comes after
-- it, '<us> <state> <node> ...'. What is to be noted goes into `notes`.
local function online_edges(noted_told, noted_owed, mode, was_empty, notes)
  local owed, state, told, edges = noted_owed, 'offline', '0', ''
  if noted_told then state, told = string.match(noted_told, '^(%S+) (%S+)$') end
  if owed then state = string.match(owed, '(%S+) %S+$') end
  -- A set that lapsed while its sockets stayed open was nobody's coming or going.
  if state == 'online' and was_empty and mode == 'new' then edges = ' offline ' .. node .. ' online ' .. node
  elseif state == 'offline' and (was_empty or noted_told or owed) then edges = ' online ' .. node end
  if edges ~= '' then
    owed = (owed or order) .. edges
    notes[#notes + 1], notes[#notes + 2] = '@owed', owed
  elseif not (noted_told or owed) then
    notes[#notes + 1], notes[#notes + 2] = '@told', 'online 0' -- Redis lost the note; who is there was told of
  end
  return owed and ' ' .. told .. ' ' .. order .. ' ' .. owed or ''
end

-- `count`: beyond the page, so that `replayed` is all there is; what is large costs Redis too much for that. Says also
-- whether each entry comes right after the one before: one may have been deleted by hand.
local function read(log, cursor, from, client, count)
  local entries, replayed, bytes, upto, more, after, size, counted = {}, 0, 0, from, '0', from, 2, 0
  local unbroken = true
  while true do
    local chunk = redis.call('XRANGE', log, '(' .. after, '+', 'COUNT', size)
    for _, entry in ipairs(chunk) do
      local event = named(entry[2])
      local full = #entries >= 3 * PAGE_ENTRIES or bytes >= PAGE_BYTES
      counted, spent = counted + ENTRY + #event.data, spent + ENTRY + #event.data
      if event.prev ~= after and newer(before(cursor, entry), after) then unbroken = false end
      local mine = (not event.client or event.client == client) and event.except ~= client
      if mine then
        if count or not full then replayed = replayed + 1 end
        if not full then
          bytes = bytes + #event.data
          entries[#entries + 1] = entry[1]
          entries[#entries + 1] = event.event
          entries[#entries + 1] = event.data
        end
      end
      if full then more = '1' else upto = entry[1] end
      after = entry[1]
    end
    if #chunk < size or (more == '1' and (not count or counted > COUNT_BYTES)) then
      return entries, replayed, upto, more, unbroken
    end
    size = math.min(2 * size, CHUNK) -- the first few may be large
  end
end

-- Positions of clients that never come back must not pile up on a user who is always there. From then on a client
-- without a position may be one of them: '@dropped', ms.
local function drop_oldest_positions(cursor, members, client)
  local connected, known = { [client] = true }, {}
  for _, member in ipairs(members) do connected[string.match(member, '^(.-)@')] = true end
  local fields = redis.call('HGETALL', cursor)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) ~= '@' and not connected[fields[i]] then
      known[#known + 1] = { client = fields[i], ms = ms_of(fields[i + 1]) }
    end
  end
  table.sort(known, function(a, b) return a.ms < b.ms end)
  local surplus = #known - KEPT_POSITIONS
  for i = 1, surplus do redis.call('HDEL', cursor, known[i].client) end
  if surplus > 0 then redis.call('HSET', cursor, '@dropped', string.format('%d', now)) end
  return #known - math.max(surplus, 0)
end

-- When the client, or anyone, was signed out last: signout.lua.
local function last_sign_out(noted, client)
  local latest = 0
  for at, who in string.gmatch(noted or '', '(%d+) (%S+)') do
    local is_time = tonumber(at) < (now + A_DAY) * 1000 -- else it is one that never comes
    if is_time and (not client or who == '*' or who == client) then latest = math.max(latest, tonumber(at)) end
  end
  return latest
end

local function connect(user, nodes, log, cursor, client, mode, since, has_confirmed, told)
  local members, leases, last, held = prune(user, nodes)
  -- Leases without a set: Redis lost it. Whoever else has one finds it gone with the next heartbeat, and registers anew.
  if #members == 0 and #leases > 0 then
    if last then redis.call('HSET', cursor, '@newest', last) end
    redis.call('DEL', nodes)
    last, held = nil, nil
  end
  local replaced, known, others = '', false, 0
  for _, member in ipairs(members) do
    local its_client, its_node = string.match(member, '^(.-)@(.*)$')
    if its_client ~= client then others = others + 1
    elseif its_node == node then known = true
    else replaced = its_node end
  end
  local noted = call('HMGET', cursor, client, '@told', '@owed', '@empty', '@dropped', '@positions', '@out',
    '@newest', '@clock', '@lost')
  if mode ~= 'new' then
    -- Where the other's lease was not renewed since this one began, an older data set has brought an older one back.
    local its_lease, began = replaced ~= '' and named(leases)[replaced], math.floor(tonumber(mode) / 1000)
    -- (Where the clock has gone back since this one began, nothing shows that.)
    if its_lease and (began > now or its_lease - session_ms >= began) then return 'replaced' end
    if last_sign_out(noted[7], client) > tonumber(mode) then return 'out' end
  elseif not known and replaced == '' and others >= max_sessions then
    return 'full'
  end
  local order = order
  if mode ~= 'new' then
    if tonumber(mode) > tonumber(order) then order = mode end -- it does not go back with the clock
  elseif noted[7] then -- nor does a new one come before a sign-out
    order = string.format('%d', math.max(order, last_sign_out(noted[7]) + 1))
  end

  local in_log = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local newest = in_log and in_log[1]
  local position = newest or clock
  local known = newest_of(last, noted[8]) -- '@last' is kept while someone is there, else '@newest'
  -- The log is gone: nobody may stand before what it had.
  if not newest and known and newer(known, clock) and ms_of(known) < now + A_DAY then position = known end
  local lost_to = noted[10] or nil
  if mode ~= 'new' then lost_to = behind_lost(log, newest or known or '0-0', not newest, lost_to, since, told) end
  if lost_to and newer(lost_to, position) then position = lost_to end
  local stored, confirmed = noted[1], noted[1]
  if mode == 'new' and has_confirmed ~= '' then confirmed = newest_of(stored, has_confirmed) end
  local from = since ~= '' and since or confirmed or position
  if from ~= position and spent > CALL_BYTES then return 'later' end
  if from ~= position then redis.call('XTRIM', log, 'MAXLEN', log_length) end -- publishing leaves it a little longer
  local whole = from == position or is_whole(log, cursor, from, newest, known, noted[2] or noted[3] or noted[4])
  -- What Redis lost before `knows` the session was told of, or it began later, as who is new does now.
  local knows, missed = told.knows, from
  if mode == 'new' then knows = (since ~= '' or confirmed) and from or newest_of(position, clock) end
  if lost_to then
    -- Whoever has confirmed what is behind it, and asks for nothing that came before, knows of it, whatever id it has kept.
    if mode == 'new' and confirmed and newer(confirmed, knows) then
      local after = redis.call('XRANGE', log, '(' .. from, '+', 'COUNT', 1)[1]
      if not after or newer(after[1], lost_to) then knows = confirmed end
    end
    local is_lost = newest and newer(from, newest) and not newer(from, lost_to)
    whole = (whole or is_lost or false) and not newer(lost_to, knows)
    if not whole and newer(from, lost_to) and newer(lost_to, knows) then missed = knows end
  end
  -- Whose position was dropped within the log's time may have missed something; who is new is told so as well.
  -- Redis threw the positions away. (What is kept for a shorter time than leases lapses before those of a node that died.)
  local lost = #members > 0 and not (noted[2] or noted[3]) and log_ms >= session_ms
  local dropped = lost and now or tonumber(noted[5] or 0)
  if since == '' and not confirmed and dropped > now - log_ms then whole = false end

  if replaced ~= '' then redis.call('SREM', user, client .. '@' .. replaced) end
  call('SADD', user, client .. '@' .. node)
  if newest and not last then call('HSET', nodes, node, lease_end, '@last', newest)
  else call('HSET', nodes, node, lease_end) end
  if #members == 0 then -- both keys are new
    call('PEXPIRE', user, session_ttl)
    call('PEXPIRE', nodes, session_ttl)
  else
    keep(user, session_ttl)
    keep(nodes, session_ttl)
  end

  local notes = {}
  -- Who asks for more than it has to has confirmed no less.
  local reached = confirmed and newer(confirmed, from) and confirmed or from
  if newer(reached, position) then reached = position end -- what was not published cannot have arrived
  if mode == 'new' and reached ~= stored then
    notes[1], notes[2] = client, reached
    -- Not all fields are positions, so those are counted: '@positions', but for the first, and about.
    if (noted[2] or noted[3]) and not stored then
      local positions = (noted[6] or 0) + 1
      if positions > MOST_POSITIONS then positions = drop_oldest_positions(cursor, members, client) end
      notes[3], notes[4] = '@positions', positions
    end
  elseif mode ~= 'new' and not stored and has_confirmed ~= '' then
    notes[1], notes[2] = client, has_confirmed
  end
  local edges = online_edges(noted[2], noted[3], mode, #members == 0, notes)
  local tell = replaced
  if lost_to ~= (noted[10] or nil) then
    notes[#notes + 1], notes[#notes + 2] = '@lost', lost_to
    tell = table.concat(members, '/')
  end
  if lost then notes[#notes + 1], notes[#notes + 2] = '@dropped', string.format('%d', now) end
  if not newest then
    if not noted[4] then notes[#notes + 1], notes[#notes + 2] = '@empty', empty_since end
    -- The newest position that was handed out, where '@empty' does not say it: ids may not fall behind it, though the
    -- clock goes back. What is far ahead is no position, but a time that never comes.
    if noted[4] or empty_since ~= clock then
      local handed_out = clock
      for _, earlier in ipairs({ noted[4] or clock, noted[9] or clock }) do
        if newer(earlier, handed_out) and ms_of(earlier) < now + A_DAY then handed_out = earlier end
      end
      notes[#notes + 1], notes[#notes + 2] = '@clock', handed_out
    end
  end
  if notes[1] then call('HSET', cursor, unpack(notes)) end
  if newest then keep(log, log_ttl) end -- until the first heartbeat
  local is_known = noted[1] or noted[2] or noted[3] or noted[4] or noted[7] or noted[8] or #members > 0
  if is_known then keep(cursor, log_ttl) else call('PEXPIRE', cursor, log_ttl) end -- that key, too, is new
  local entries, replayed, upto, more = {}, '0', position, '0'
  if from ~= position then
    local unbroken
    entries, replayed, upto, more, unbroken = read(log, cursor, from, client, mode == 'new')
    whole = whole and unbroken
    if more == '0' and newer(position, upto) then upto = position end
  end
  if not whole then knows = position end -- it is told now
  local text = 'ok ' .. position .. ' ' .. missed .. (whole and ' 1 ' or ' 0 ') .. replayed .. ' ' .. upto .. ' '
    .. more .. ' ' .. order .. (held and ' 0 ' or ' 1 ') .. knows .. ' '
    .. (newest_of(newest or known, lost_to) or '0-0') .. ' ' .. (tell ~= '' and tell or '-') .. edges
  return entries[1] and { text, entries } or text
end

if now > tonumber(ARGV[7]) then return now end
local results = {}
for i = 0, #KEYS / 4 - 1 do
  -- One user's broken key must not take the rest of the batch along.
  local done, result = pcall(connect, KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4],
    ARGV[7 * i + 8], ARGV[7 * i + 9], ARGV[7 * i + 10], ARGV[7 * i + 11],
    { event = ARGV[7 * i + 12], is_lost = ARGV[7 * i + 13] == '1', knows = ARGV[7 * i + 14] })
  if not done then
    local error = type(result) == 'table' and result.err or tostring(result)
    result = '! ' .. string.gsub(error, '%c', ' ')
  end
  results[i + 1] = result
end
return results
