-- publish: appends events to their users' logs, each once, tells the nodes that hold the user, and says which they are.
-- Telling them here spares a few events a second way to Redis and back. Of many the caller tells them, which costs Redis
-- less, and everywhere on a Cluster, which has inboxes elsewhere, and where replicas must have the events first.
--
-- KEYS[3i+1] -> nodes:{user:<id>} (HASH)
-- KEYS[3i+2] -> log:{user:<id>} (STREAM)
-- KEYS[3i+3] -> cursor:{user:<id>} (HASH)
-- ARGV[1] -> log length, entries
-- ARGV[2] -> log TTL, ms
-- ARGV[3] -> node id of the caller, who tells its own sessions
-- ARGV[4] -> entries that an inbox may hold, about; 0: the caller tells everyone
-- ARGV[5] -> what stands before a node's id in the key of its inbox (STREAM, there while its node is); it is as long as
--   what stands before a user's id in KEYS[3i+1]
-- ARGV[6...] -> for each event: name, data (JSON text), how many pairs follow, then so many of: option, value;
--   options: client, except, collapse, key, ingress (the entry's id on its ingress stream), stream (that stream's
--   name, where it is not 'events'), transient
--
-- returns a text (an array would be read and built value by value): a line with the nodes that the caller has to tell,
--   '*' for all, and one of these for each event
--   'id prev nodes...'  id: its id in the log, '-' where transient; prev: the id before it, '-' where nothing was
--     appended because the key, or the ingress entry, was published before (id is the first one's; '-' where not
--     known); nodes: live leases
--   '! error'  where Redis refused this one

-- Redis walks over what it has cut already, so cutting one entry with each event would take a fifth of this script's
-- time. How long a log is, is asked for every sixteenth event of a call, and for a user's first of a tenth of a second, as
-- who always has another place must be cut as well: that takes a twentieth less than for each. Whoever reads a log cuts it
-- first. A short log is kept as short as it is meant.
-- As texts: to make a number of each took as long as half a command.
local is_short = #ARGV[1] < 3 or #ARGV[1] == 3 and ARGV[1] < '128'
local spare = is_short and 0 or 16
-- A log's time to live is renewed with its first event of a second, or, where it is short, of a tenth of one: so many
-- digits of the clock tell them apart. Two calls for every event would be a fifth of its cost. While someone is there their
-- heartbeats renew it as well, and their end; where nobody is, each event does.
local digits = #ARGV[2] < 6 and 11 or 10
local now, moment, tenth -- ms, as text, once the first event tells
local caller, tells, before_user = ARGV[3], ARGV[4] ~= '0', #ARGV[5]
local hints = {} -- node -> lines for its inbox: what a hint says, its data, and so on

-- A function, and each local around it that it sees, is made anew with each call of this script: for a single event that
-- took as long as two commands. So these get what they need as arguments, what most events need is written out in the loop
-- below, and what few need is made where one comes.

local function keep(key, ttl) -- a shared key's TTL never shrinks
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Has a hint for the first so many others.
local function tell(hints, others, holders, line, data)
  for n = 1, holders do
    local lines = hints[others[n]] or {}
    hints[others[n]] = lines
    local count = #lines
    lines[count + 1], lines[count + 2] = line, data
  end
end

-- Notes an event that was appended, and looks after its log. False where that has nothing else, or nobody is there: the
-- event is taken out again, and goes the way of a log's first.
local function note(keep, nodes, log, cursor, id, live, spare, is_due)
  local entries = redis.call('XLEN', log)
  if entries == 1 or live == '' then
    redis.call('XDEL', log, id)
    return false
  end
  -- First of all: should Redis refuse anything below, the next event must still know that it is not the first.
  redis.call('HSET', nodes, '@last', id)
  if entries > ARGV[1] + spare then redis.call('XTRIM', log, 'MAXLEN', ARGV[1]) end
  if is_due then
    keep(log, ARGV[2])
    keep(cursor, ARGV[2]) -- a position must last as long as what its client has not got
  end
  return true
end

-- Makes the function that publishes an event of any kind.
local function any_publisher(keep, tell, hints, now, moment, spare, before_user)
  local A_DAY, log_ttl = 86400000, ARGV[2]
  local length = tonumber(ARGV[1])

  local function parts(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(seq)
  end

  local function newer(a, b) -- as texts: as numbers, those of more than 15 digits would be rounded
    local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
    local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
    if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
    return #a_ms > #b_ms or (#a_ms == #b_ms and a_ms > b_ms)
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

  -- Whether the log has lost `id`, other than to a newer one of its collapse key.
  local function has_left(log, cursor, id)
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    return not oldest or not newer(id, before(cursor, oldest))
  end

  -- Takes an entry out of the log for a newer one of its collapse key. The id before it is carried over to the next, so
  -- that a reader can still prove that nothing else is missing; where there is no next yet, that id is returned. Returns
  -- also how many more fields there are now.
  local function take_out(log, cursor, id)
    local entries = redis.call('XRANGE', log, id, '+', 'COUNT', 2)
    if not entries[1] or entries[1][1] ~= id then return nil, 0 end -- it has been cut off
    local prev = before(cursor, entries[1])
    redis.call('XDEL', log, id)
    local fewer = redis.call('HDEL', cursor, '@prev:' .. id)
    if not entries[2] then return prev, -fewer end
    return nil, redis.call('HSET', cursor, '@prev:' .. entries[2][1], prev) - fewer
  end

  -- Redis frees a block of a stream (4 KB) once all entries in it are deleted. Where newer events take the places of older
  -- ones, what stays between them would each hold a block: of forty steps and a result for each job, the results thirty times
  -- as much memory as they need. So a log with so many holes is written anew, unless that would take longer than a few ms:
  -- one in a call, as those of a group of users fill up together.
  local MOST_HOLES, MOST_ENTRIES, MOST_BYTES = 1024, 1024, 262144
  local has_written = false
  local function write_anew(log)
    has_written = true
    -- In a slot that is on its way to another master no key is made: what was deleted could not be written again.
    if redis.pcall('EXISTS', log .. ':') ~= 0 then return end
    local entries, bytes, from = {}, 0, '-'
    repeat
      local page = redis.call('XRANGE', log, from, '+', 'COUNT', 4) -- each may be large
      for _, entry in ipairs(page) do
        entries[#entries + 1] = entry
        if #entry[2] > 64 then return end -- put there by hand: too many at once would be refused
        for _, part in ipairs(entry[2]) do bytes = bytes + #part end
        from = '(' .. entry[1]
      end
      if bytes > MOST_BYTES then return end
    until #page < 4
    local left = redis.call('PTTL', log)
    redis.call('DEL', log)
    for _, entry in ipairs(entries) do redis.call('XADD', log, entry[1], unpack(entry[2])) end
    if left > 0 then redis.call('PEXPIRE', log, left) end
  end

  -- The log begins: there was no event between '@start' and its first one. A connect that found it empty has noted since
  -- when; else nothing is known of the time before.
  local function begin(cursor, empty, first)
    redis.call('HSET', cursor, '@start', empty or first)
    if empty then redis.call('HDEL', cursor, '@empty', '@clock') end
  end

  -- The fields of an entry in a log.
  local function entry(event, data, last, option)
    local fields = { 'event', event, 'data', data, 'prev', last }
    for _, name in ipairs(option and { 'client', 'except', 'collapse', 'key' } or {}) do
      if option[name] then
        fields[#fields + 1] = name
        fields[#fields + 1] = option[name]
      end
    end
    return unpack(fields)
  end

  -- Keys of events that have left the log need not be remembered; of those whose events were replaced there the last are, in
  -- twice as many fields as the log is long at most. All fields of a user are too many for one call where it is long: each time
  -- a few more have come than gone, some are looked at, in turn, three for each that has come. '@keys' counts the fields;
  -- '@forget' is '<fields beyond which it is time> <where HSCAN goes on> <looked at since `young`> <old> <young>': what was
  -- published before the ms `old` and was replaced is forgotten.
  local function forget_some(log, cursor, id, added)
    local fields = (redis.call('HGET', cursor, '@keys') or 0) + added
    local forget = fields > 2 * length + 256 and (redis.call('HGET', cursor, '@forget') or '0 0 999999 0 0')
    local due, at, looked, old, young
    if forget then due, at, looked, old, young = string.match(forget, '^(%d+) (%d+) (%d+) (%d+) (%d+)$') end
    if not forget or fields <= tonumber(due) then return redis.call('HSET', cursor, '@keys', fields) end

    -- As many fields have come since `young` as the log is long.
    if tonumber(looked) > 3 * length then looked, old, young = 0, young, string.match(id, '^%d+') end
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]
    local oldest_ms, old_ms = tonumber(string.match(oldest, '^%d+')), tonumber(old)
    local scanned = redis.pcall('HSCAN', cursor, at, 'COUNT', 48)
    -- Without the right to do so they become more; but the event is in the log by now.
    if scanned.err then scanned = { at, {} } end
    local found = scanned[2]
    for f = 1, #found, 2 do
      local field = found[f]
      local kind = string.match(field, '^@(%l+):')
      if kind == 'key' or kind == 'collapse' or kind == 'collapsing' or kind == 'prev' then
        local its = kind == 'prev' and string.sub(field, 7) or found[f + 1]
        local ms = tonumber(string.match(its, '^%d+'))
        if ms < oldest_ms then fields = fields - redis.call('HDEL', cursor, field)
        elseif kind == 'collapsing' and ms < old_ms and #redis.call('XRANGE', log, its, its) == 0 then
          local key = '@key:' .. string.sub(field, 13)
          if redis.call('HGET', cursor, key) ~= its then key = field end -- of another event by now
          fields = fields - redis.call('HDEL', cursor, field, key)
        end
      end
    end
    due, looked = fields + (#found == 0 and 16 or math.ceil(#found / 6)), looked + #found / 2
    forget = due .. ' ' .. scanned[1] .. ' ' .. looked .. ' ' .. old .. ' ' .. young
    redis.call('HSET', cursor, '@keys', fields, '@forget', forget)
  end

  -- `live`: ' node node...'; `last`: as noted with the leases, where there are any.
  local function publish(nodes, log, cursor, event, data, option, has_leases, live, last, others, holders)
    local user = string.sub(nodes, before_user + 1, -2)

    local to = ''
    if option then
      to = (option.client and ' =' .. option.client or '') .. (option.except and ' !' .. option.except or '')
    end
    if option and option.transient then
      tell(hints, others, holders, #data .. ' transient ' .. user .. ' ' .. event .. to, data)
      return '- -' .. live
    end
    local ingress = option and '@ingress' .. (option.stream and ':' .. option.stream or '')
    local published = option and option.key and redis.call('HGET', cursor, '@key:' .. option.key)
    if published and has_left(log, cursor, published) then published = nil end
    local routed = option and option.ingress and not published and redis.call('HGET', cursor, ingress)
    if published or routed and not newer(option.ingress, routed) then
      -- Written again, as it is: WAIT waits for its own connection's writes alone, and the first time another one wrote.
      redis.call('HSET', cursor, published and '@key:' .. option.key or ingress, published or routed)
      keep(cursor, log_ttl) -- the note must outlast what it is asked for
      -- Whoever published it may have died before it told anyone.
      tell(hints, others, holders, '0 look ' .. user .. (published and ' ' .. published or ''), '')
      return (published or '-') .. ' -' .. live
    end

    if not last then
      local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
      local noted = redis.call('HGET', cursor, '@newest') -- before anything is appended: it may be no hash
      last = newest and newest[1] or noted or '0-0'
    end
    local carried, added = nil, 0
    -- With the target: who does not get the newer event must not lose the older one to it.
    local place = option and option.collapse and '@collapse:' .. option.collapse .. to
    local found = place and redis.call('HMGET', cursor, place, '@holes') or {}
    local older, holes = found[1], tonumber(found[2] or 0)
    if older then
      carried, added = take_out(log, cursor, older)
      holes = holes + 1
    end
    local id = redis.call('XADD', log, '*', entry(event, data, last, option))
    local entries, empty = redis.call('XLEN', log), nil
    if entries == 1 then
      -- Nothing in the log held its id up: where the clock has gone back, it must still come after what was handed out.
      local noted = redis.call('HMGET', cursor, '@empty', '@clock', '@lost')
      empty = noted[1]
      local handed_out = noted[2] or empty or last
      for _, id in ipairs({ last, noted[3] or last }) do
        if newer(id, handed_out) then handed_out = id end
      end
      local ms, seq = parts(handed_out)
      if not newer(id, handed_out) and ms < now + A_DAY then -- '@empty' may be a time that never comes
        redis.call('XDEL', log, id)
        id = redis.call('XADD', log, string.format('%d-%d', ms, seq + 1), entry(event, data, last, option))
      end
    end
    -- First of all: should Redis refuse anything below, the next event must still know that it is not the first.
    if has_leases then redis.call('HSET', nodes, '@last', id) end
    local begun = live == '' and redis.call('HSET', cursor, '@newest', id) == 1 -- else the heartbeat notes it
    if entries > length + spare then redis.call('XTRIM', log, 'MAXLEN', ARGV[1]) end
    if option then
      if carried then added = added + redis.call('HSET', cursor, '@prev:' .. id, carried) end
      if holes > MOST_HOLES and entries <= MOST_ENTRIES and #data <= 1024 and not has_written then
        write_anew(log)
        holes = 0
      end
      if place then
        local new_fields = redis.call('HSET', cursor, place, id, '@holes', holes)
        added = added + new_fields - (found[2] and 0 or 1) -- '@holes' is no key that is to be forgotten
      end
      if option.key then added = added + redis.call('HSET', cursor, '@key:' .. option.key, id) end
      if option.key and option.collapse then
        added = added + redis.call('HSET', cursor, '@collapsing:' .. option.key, id)
      end
      if option.ingress and redis.call('HSET', cursor, ingress, option.ingress) == 1 then begun = true end
      if added ~= 0 then forget_some(log, cursor, id, added) end
    end
    if last == '0-0' then begin(cursor, empty, id) end
    local due = string.sub(last, 1, #moment) ~= moment or entries == 1 or live == ''
    if due then keep(log, log_ttl) end
    -- A position must last as long as what its client has not got.
    if due or begun or added ~= 0 then keep(cursor, log_ttl) end
    tell(hints, others, holders, #data .. ' event ' .. user .. ' ' .. id .. ' ' .. last .. ' ' .. event .. to, data)
    return id .. ' ' .. last .. live
  end

  return publish
end

local publish, others, none, try = nil, {}, {}, redis.pcall -- what every event needs: looking it up takes time
-- Log -> why one of its events was refused. What comes after it in this call is refused as well: an event that overtook it
-- would have it taken for one that was published before.
local refused = nil
local results, at = { tells and '' or '*' }, 6
for i = 0, #KEYS / 3 - 1 do
  local nodes, log, cursor, result = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3], nil
  local event, data, options, done = ARGV[at], ARGV[at + 1], ARGV[at + 2], true
  -- One user's broken key must not take the rest of the batch along.
  local leases, live, last, is_held, holders = none, '', nil, false, 0
  if refused then result = refused[log] end
  if not result then
    leases = try('HGETALL', nodes)
    if leases.err then done, result = false, leases end
  end
  for l = 1, #leases, 2 do
    if leases[l] == '@last' then last = leases[l + 1] else is_held = true end
  end

  -- Most events have no options, someone is there, and so is their log. Others go on below, as do those that Redis refuses.
  local id = options == '0' and last and is_held and not result
    and try('XADD', log, 'NOMKSTREAM', '*', 'event', event, 'data', data, 'prev', last)
  local is_appended = type(id) == 'string'
  if not now then
    -- An id that is the first of its ms is the time, and to ask for that would take a lone event's script a twelfth longer.
    -- Others may be ahead of the clock.
    if is_appended and string.sub(id, -2) == '-0' then
      now = string.sub(id, 1, -3)
    else
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    moment, tenth = string.sub(now, 1, digits), string.sub(now, 1, 11)
  end
  for l = 1, #leases, 2 do
    local node = leases[l]
    if node ~= '@last' and leases[l + 1] > now then -- as texts: each has 13 digits
      live = live .. ' ' .. node
      if tells and node ~= caller then
        holders = holders + 1
        others[holders] = node
      end
    end
  end

  if is_appended then
    local is_later, noted = string.sub(last, 1, 11) ~= tenth, nil
    if is_later or is_short or i % 16 == 0 or live == '' then
      local is_due = is_later and string.sub(last, 1, digits) ~= moment
      done, noted = pcall(note, keep, nodes, log, cursor, id, live, spare, is_due)
    else
      noted = try('HSET', nodes, '@last', id)
      done = noted == 0
    end
    if not done then
      result = noted
    elseif noted then
      if holders > 0 then
        local user = string.sub(nodes, before_user + 1, -2)
        tell(hints, others, holders, #data .. ' event ' .. user .. ' ' .. id .. ' ' .. last .. ' ' .. event, data)
      end
      result = id .. ' ' .. last .. live
    end
  end

  if not result then
    local option = nil
    if options ~= '0' then
      option = {}
      for o = 0, options - 1 do option[ARGV[at + 3 + 2 * o]] = ARGV[at + 4 + 2 * o] end
    end
    publish = publish or any_publisher(keep, tell, hints, now, moment, spare, before_user)
    local has_leases = #leases > 0
    done, result =
      pcall(publish, nodes, log, cursor, event, data, option, has_leases, live, last, others, holders)
  end
  if not done then
    local error = type(result) == 'table' and result.err or tostring(result)
    refused, result = refused or {}, '! ' .. string.gsub(error, '%c', ' ')
    refused[log] = result
  end
  results[i + 2] = result
  at = at + 3 + (options == '0' and 0 or 2 * options)
end
for node, lines in pairs(hints) do
  lines[#lines + 1] = '' -- the last line ends, too
  local key, text = ARGV[5] .. node .. '}', table.concat(lines, '\n')
  local told = redis.pcall('XADD', key, 'NOMKSTREAM', 'MAXLEN', '~', ARGV[4], '*', 'hints', text)
  if type(told) == 'table' and told.err then results[1] = results[1] .. ' ' .. node end
end
return table.concat(results, '\n')
