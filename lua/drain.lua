-- drain: hands out the times at which clients of leaving nodes come back, from one budget for all nodes.
--
-- KEYS[1] -> drain (HASH)
-- ARGV[1] -> node id
-- ARGV[2] -> ms until this node has sent all its clients away; 0 where it has
-- ARGV[3] -> live nodes, this one among them
-- ARGV[4] -> clients a second that one staying node takes
-- ARGV[5] -> clients that are sent away now
--
-- returns {first, step}: µs from now until the first of them should come back, µs between two of them

local drain, node, left = KEYS[1], 'node ' .. ARGV[1], tonumber(ARGV[2])
local live, rate, clients = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

if left > 0 then
  redis.call('HSET', drain, node, string.format('%d', now + left * 1000))
else
  redis.call('HDEL', drain, node)
end
local free, leaving, ends = now, 0, now
local fields = redis.call('HGETALL', drain)
for f = 1, #fields, 2 do
  local at = tonumber(fields[f + 1])
  if fields[f] == 'next' then free = math.max(now, at)
  elseif at <= now then redis.call('HDEL', drain, fields[f])
  else
    leaving = leaving + 1
    ends = math.max(ends, at)
  end
end

local step = 1000000 / (rate * math.max(1, live - leaving))
local taken = free + clients * step
if leaving == 0 and taken <= now then
  redis.call('DEL', drain)
else
  redis.call('HSET', drain, 'next', string.format('%d', taken))
  redis.call('PEXPIRE', drain, math.ceil((math.max(ends, taken) - now) / 1000) + 1)
end
return { math.floor(free - now), math.floor(step) }
