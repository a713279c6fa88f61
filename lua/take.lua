-- take: hands a reader of an ingress stream the entries that come next, if the stream is its own to read.
-- A read that was held back on its way, by a connection that is half dead, would take entries that the next reader
-- then passes over: so the lease is looked at in the same step, and the next reader may be of the same process, with a
-- lease of its own.
--
-- KEYS[1] -> events (STREAM, group switchboard)
-- ARGV[1] -> node id
-- ARGV[2] -> the lease, '<boot id of the process>.<number>'
-- ARGV[3] -> entries at most
-- ARGV[4] -> bytes of them, beyond which no more are taken
--
-- returns the entries, {id, {field, value, ...}} each; nil where another has the lease; an error where there is no such
-- stream or group, or the key holds something else

local events, node, lease, most, most_bytes = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local consumers = redis.pcall('XINFO', 'CONSUMERS', events, 'switchboard')
if consumers.err then return consumers end
for _, consumer in ipairs(consumers) do
  local holder, until_ms = string.match(consumer[2], '^lease %S+ (%S+) (%d+)$')
  if holder == lease and tonumber(until_ms) > now then
    local entries, bytes = {}, 0
    repeat -- a few at a time: only then it shows how large they are
      local few = math.min(16, most - #entries)
      local read = redis.call('XREADGROUP', 'GROUP', 'switchboard', node, 'COUNT', few, 'STREAMS', events, '>')
      local came = read and read[1][2] or {}
      for _, entry in ipairs(came) do
        entries[#entries + 1] = entry
        for _, text in ipairs(entry[2]) do bytes = bytes + #text end
      end
    until #came < few or #entries >= most or bytes >= most_bytes
    return entries
  end
end
return false
