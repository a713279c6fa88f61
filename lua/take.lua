-- take: hands a reader of an ingress stream the entries that come next, if the stream is its own to read.
-- A read that was held back on its way, by a connection that is half dead, would take entries that the next reader
-- then passes over: so the lease is looked at in the same step, and the next reader may be of the same process, with a
-- lease of its own.
--
-- KEYS[1] -> events (STREAM, group switchboard)
-- ARGV[1] -> node id
-- ARGV[2] -> the lease, '<boot id of the process>.<number>'
-- ARGV[3] -> entries at most
--
-- returns the entries, {id, {field, value, ...}} each; nil where another has the lease; an error where there is no such
-- stream or group, or the key holds something else

local events, node, lease, most = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local consumers = redis.pcall('XINFO', 'CONSUMERS', events, 'switchboard')
if consumers.err then return consumers end
for _, consumer in ipairs(consumers) do
  local holder, until_ms = string.match(consumer[2], '^lease %S+ (%S+) (%d+)$')
  if holder == lease and tonumber(until_ms) > now then
    local read = redis.call('XREADGROUP', 'GROUP', 'switchboard', node, 'COUNT', most, 'STREAMS', events, '>')
    return read and read[1][2] or {}
  end
end
return false
