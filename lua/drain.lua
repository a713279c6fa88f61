-- drain: hands out the times at which clients of leaving nodes come back, from one budget for all nodes.
--
-- KEYS[1] -> drain (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> ms until this node has sent all its clients away; 0 where it has
-- ARGV[3] -> live nodes, this one among them
-- ARGV[4] -> clients a second that one staying node takes
-- ARGV[5] -> clients that are sent away now
-- ARGV[6] -> clients that this node sends away later
-- ARGV[7] -> longest that a client may be told to wait, ms
--
-- returns {first, step}: µs from now until the first of them should come back, µs between two of them

local drain, node, left = KEYS[1], 'node ' .. ARGV[1], tonumber(ARGV[2])
local live, rate, clients = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local longest = tonumber(ARGV[7]) * 1000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

if left > 0 then
  redis.call('HSET', drain, node, string.format('%d %s', now + left * 1000, ARGV[6]))
else
  redis.call('HDEL', drain, node)
end
local free, leaving, ends, crowd = now, 0, now, clients
local fields = redis.call('HGETALL', drain)
for f = 1, #fields, 2 do
  local at, later = string.match(fields[f + 1], '^(%d+) ?(%d*)$')
  at = tonumber(at)
  if fields[f] == 'next' then free = math.max(now, at)
  elseif at <= now then redis.call('HDEL', drain, fields[f])
  else
    leaving = leaving + 1
    ends = math.max(ends, at)
    crowd = crowd + tonumber(later)
  end
end

-- Where the budget is too small for all to be back in time, they are spread evenly over the time there is.
local step = 1000000 / (rate * math.max(1, live - leaving))
if crowd > 0 then step = math.min(step, math.max(0, ends + longest - free) / crowd) end
local taken = free + clients * step
if leaving == 0 and taken <= now then
  redis.call('DEL', drain)
else
  redis.call('HSET', drain, 'next', string.format('%d', taken))
  redis.call('PEXPIRE', drain, math.ceil((math.max(ends, taken) - now) / 1000) + 1)
end
return { math.floor(free - now), math.floor(step) }
