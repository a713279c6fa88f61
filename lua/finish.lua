-- finish: lets go of entries of an ingress stream that were handled, in one step: a reader that dies leaves none behind
-- that is done and still there.
--
-- KEYS[1] -> events (STREAM, group switchboard)
-- ARGV[1] -> id right after the last of them
-- ARGV[2...] -> their ids
--
-- returns how many were waiting for it; an error where there is no such stream, or the key holds something else

local events, after = KEYS[1], ARGV[1]
local ids, at = {}, 2
while at <= #ARGV do
  ids[#ids + 1] = ARGV[at]
  at = at + 1
end
local acked = redis.call('XACK', events, 'switchboard', unpack(ids))
for _, group in ipairs(redis.call('XINFO', 'GROUPS', events)) do
  local its = {}
  for i = 1, #group, 2 do its[group[i]] = group[i + 1] end
  -- Everything up to the last has been handled and may go, with what the group was made to pass over. But where another
  -- consumer of the group was handed something, that waits for the next reader.
  if its.name == 'switchboard' and its.pending == 0 then
    redis.call('XTRIM', events, 'MINID', after)
    return acked
  end
end
redis.call('XDEL', events, unpack(ids))
return acked
