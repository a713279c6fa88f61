-- settle: takes note that the presence stream has been told of users' edges.
--
-- KEYS[1...] -> cursor:{user:<id>} (HASH)
-- ARGV[2i+1] -> what was owed and has been told: '<us> <state> <node> ...'
-- ARGV[2i+2] -> the last edge told, '<state> <entry>'
--
-- returns how many users owe nothing more

local settled, at, call = 0, 1, redis.call
for i = 0, #KEYS - 1 do
  local cursor, paid, told = KEYS[at], ARGV[2 * i + 1], ARGV[2 * i + 2]
  local owed = call('HGET', cursor, '@owed')
  if owed == paid then
    call('HSET', cursor, '@told', told) -- first: where '@owed' is all there is, the key would go, and its TTL with it
    call('HDEL', cursor, '@owed')
    settled = settled + 1
  elseif owed and string.sub(owed, 1, #paid + 1) == paid .. ' ' then -- more has come meanwhile
    redis.call('HSET', cursor, '@told', told, '@owed', string.match(paid, '^%d+') .. string.sub(owed, #paid + 1))
  end
  at = at + 1
end
return settled
