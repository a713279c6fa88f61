-- lead: takes, renews or gives back the lease on the ingress stream; whoever has it reads.
-- The lease is a consumer of the group, named 'lease <node id> <boot id>.<number> <its end, Unix ms>': it reads nothing,
-- and comes and goes with the stream, so that no key of its own is needed. The group is made where it is missing.
-- A process takes its own lease over with a higher number. What it still asks for an earlier one comes too late.
--
-- KEYS[1] -> events (STREAM, group switchboard)
-- ARGV[1] -> node id
-- ARGV[2] -> the lease, '<boot id of the process>.<number>'
-- ARGV[3] -> lease, ms; 0 gives it back
-- ARGV[4] -> where this process has found the stream before, or made it, the newest id that it read there, '0-0' where it
--   read nothing; else ''
--
-- returns 1 where the lease is ours now, 0 where it is not

local events, node, lease, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local boot, number = string.match(lease, '^(.*)%.(%d+)$')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function newer(a, b) -- as texts: as numbers, those of more than 15 digits would be rounded
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
  return #a_ms > #b_ms or (#a_ms == #b_ms and a_ms > b_ms)
end

local is_gone = redis.call('EXISTS', events) == 0
local consumers = not is_gone and redis.pcall('XINFO', 'CONSUMERS', events, 'switchboard')
if not consumers or consumers.err then
  redis.pcall('XGROUP', 'CREATE', events, 'switchboard', '0', 'MKSTREAM')
  consumers = redis.call('XINFO', 'CONSUMERS', events, 'switchboard')
end
if is_gone and ARGV[4] ~= '' then
  -- It has been deleted. Whose entries were routed has the last one's id noted, and one that is not newer would count as
  -- routed: Redis shall refuse it. The ids may have been ahead of the clock. Where the right to say so is missing, all else
  -- goes on.
  local newest = string.format('%d-0', now)
  redis.pcall('XSETID', events, newer(ARGV[4], newest) and ARGV[4] or newest)
end
local idle = {}
for _, consumer in ipairs(consumers) do
  local holder, until_ms = string.match(consumer[2], '^lease %S+ (%S+) (%d+)$')
  if holder then
    local its_boot, its_number = string.match(holder, '^(.*)%.(%d+)$') -- one without a number is another's
    local yields = its_boot == boot and tonumber(its_number) <= tonumber(number)
    if not yields and tonumber(until_ms) > now then return 0 end
    redis.call('XGROUP', 'DELCONSUMER', events, 'switchboard', consumer[2])
  elseif consumer[4] == 0 and not string.find(consumer[2], '^since%-') then -- that one tells how old the data are
    idle[#idle + 1] = consumer[2]
  end
end
-- Nobody else reads now. Who has read before, and left nothing behind, is made anew when it reads again: `take` looks
-- at all that are listed each time, and with the names of containers they would become more for ever.
for _, name in ipairs(idle) do
  if name ~= node or ttl == 0 then redis.call('XGROUP', 'DELCONSUMER', events, 'switchboard', name) end
end
if ttl == 0 then return 0 end
local name = string.format('lease %s %s %d', node, lease, now + ttl)
redis.call('XGROUP', 'CREATECONSUMER', events, 'switchboard', name)
return 1
