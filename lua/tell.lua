-- tell: appends to the presence stream what users' scripts noted as owed, each edge once.
-- Whoever noted an edge may have told it and died before that was noted; so the entries since then are looked
-- through. They are a moment's, but after such a death, or where nothing could be told for long.
--
-- KEYS[1] -> presence (STREAM)
-- ARGV[1] -> entries to keep; of 1,000 or more, about
-- ARGV[2i+2] -> user id
-- ARGV[2i+3] -> what is owed: '<entry told last, or 0> <us: read> <us: noted> <state> <node> ...'
--
-- returns an array with one of these for each user: '<state> <entry>' of its last edge
--   of nobody: what is owed was read too long ago to show whether it was told since; nothing was, and it is to be read again

local function newer(a, b) -- as texts: as numbers, those of more than 15 digits would be rounded
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
  return #a_ms > #b_ms or (#a_ms == #b_ms and a_ms > b_ms)
end

local presence, most = KEYS[1], ARGV[1]
-- So many entries are looked through, the newest: two milliseconds' work. Else who pays many old debts, call after call,
-- would go over all that the calls before have told. What was told before those may be told twice.
local MOST = 1000
-- Then what is owed must have been read just now. Of whoever froze in between, or was cut off, it may be long settled, with
-- what came after it: told once more, it would be the last word, and wrong. No node waits longer than that for an answer.
local FRESH_US = 2000000
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = string.format('%d-0', time[1] * 1000 + math.floor(time[2] / 1000) + 1)
local newest = redis.call('XREVRANGE', presence, '+', '-', 'COUNT', 1)[1]
local is_ahead = newest and newer(newest[1], now) -- the clock was set back
local trim = tonumber(most) < 1000 and '=' or '~'

-- What is owed was told after the entry told last, and not before it was noted.
local of_user, from, is_fresh = {}, nil, true
for i = 0, (#ARGV - 1) / 2 - 1 do
  local name = ARGV[2 * i + 2]
  local told, read, us, edges = string.match(ARGV[2 * i + 3], '^(%S+) (%d+) (%d+) (.+)$')
  local noted = string.sub(us, 1, -4) .. '-0' -- in ms
  local after = told ~= '0' and not newer(noted, told) and told or nil
  if is_ahead and told == '0' then after = newest[1] end -- what is there may be of long ago
  local start = after or noted
  of_user[name] = { start = start, told = after, edges = edges }
  if not from or newer(from, start) then from = start end
  is_fresh = is_fresh and now_us - read <= FRESH_US
end

local entries = redis.call('XREVRANGE', presence, '+', from, 'COUNT', MOST) -- the newest first
if not is_fresh then
  -- What has been cut off is not seen; nor is what a reader of the stream has deleted.
  local oldest = redis.call('XRANGE', presence, '-', '+', 'COUNT', 1)[1]
  if #entries >= math.min(MOST, tonumber(most)) or not oldest or newer(oldest[1], from) then return {} end
end
for e = #entries, 1, -1 do
  local id, fields = entries[e][1], entries[e][2] -- 'user', user, 'state', state, ...
  local user = of_user[fields[2]]
  -- Others' edges may reach further back than this user's; and one of the very millisecond may be the edge before.
  if user and id ~= user.told and not newer(user.start, id)
    and (user.seen or fields[4] == string.match(user.edges, '^%S+')) then
    user.seen = user.seen or {}
    user.seen[#user.seen + 1] = id
  end
end

local results = {}
for i = 0, (#ARGV - 1) / 2 - 1 do
  local name = ARGV[2 * i + 2]
  local user, at, last = of_user[name], 0, nil
  for state, node in string.gmatch(user.edges, '(%S+) (%S+)') do
    at = at + 1
    -- Another may have told more than these edges by now; what is noted of them is their own last entry.
    local entry = user.seen and user.seen[at]
      or redis.call('XADD', presence, 'MAXLEN', trim, most, '*', 'user', name, 'state', state, 'node', node)
    last = state .. ' ' .. entry
  end
  results[i + 1] = last
end
return results
