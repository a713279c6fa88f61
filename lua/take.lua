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
-- ARGV[5] -> bytes that one of them may have; of one that has more, or more than 64 fields, only the beginning is handed
--   out: who can add entries could have one of 512 MB held several times over in each reader in turn
-- ARGV[6] -> '>': those that nobody was handed yet; else those that were, but not let go of, from this id on
--
-- returns {next, entries}; nil where another has the lease; an error where there is no such stream or group, or the key
-- holds something else
--   next     from where those that were handed out go on, '0-0' where no more are known
--   entries  {id, {field, value, ...}} each; where one was cut, the first field has no name, its value is
--     '<bytes> <fields>', and no other text is longer than 128 bytes

local events, node, lease, most, most_bytes = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local entry_bytes, from = tonumber(ARGV[5]), ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Where what comes after goes on, and entries: so many, at most.
local function next_of(count)
  if from == '>' then
    local came = redis.call('XREADGROUP', 'GROUP', 'switchboard', node, 'COUNT', count, 'STREAMS', events, '>')
    came = came and came[1][2] or {}
    return #came < count and '0-0' or '>', came
  end
  local claimed = redis.call('XAUTOCLAIM', events, 'switchboard', node, 0, from, 'COUNT', count)
  return claimed[1], claimed[2]
end

local MOST_TEXTS, MOST_TEXT = 2 * 64, 128 -- names and values of an entry; bytes of each of these where it is cut

-- Bytes of an entry, which is cut where it is too large.
local function measure(entry)
  local fields, bytes = entry[2], 0
  for _, text in ipairs(fields) do bytes = bytes + #text end
  if bytes <= entry_bytes and #fields <= MOST_TEXTS then return bytes end
  local cut = { '', string.format('%d %d', bytes, #fields / 2) }
  for f = 1, math.min(#fields, MOST_TEXTS) do cut[f + 2] = string.sub(fields[f], 1, MOST_TEXT) end
  entry[2] = cut
  return bytes
end

local consumers = redis.pcall('XINFO', 'CONSUMERS', events, 'switchboard')
if consumers.err then return consumers end
for _, consumer in ipairs(consumers) do
  local holder, until_ms = string.match(consumer[2], '^lease %S+ (%S+) (%d+)$')
  if holder == lease and tonumber(until_ms) > now then
    local entries, bytes, few = {}, 0, 1
    repeat -- a few at a time: only then it shows how large they are
      local came
      from, came = next_of(math.min(few, most - #entries))
      few = math.min(2 * few, 16)
      for _, entry in ipairs(came) do
        if entry then -- one that was deleted is none, on Redis 6.2
          entries[#entries + 1] = entry
          bytes = bytes + measure(entry)
        end
      end
    until from == '0-0' or #entries >= most or bytes >= most_bytes
    return { from, entries }
  end
end
return false
