# group: programs
# Functions, tables and strings in an interpreter.
# $times: how often; short.sh has fewer
cat >/tmp/x.lua <<L
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
for _ = 1, ${times:-12} do
assert(fib(26) == 121393)
local t, x = {}, 42
for i = 1, 60000 do x = (x * 1103515245 + 12345) % 2147483648; t[i] = x end
table.sort(t)
local s = {}
for i = 1, 30000 do s[#s + 1] = string.format("%d:%s", i, tostring(t[i]):reverse()) end
assert(#table.concat(s, ","):gsub("1", "one") > 0)
end
L
seconds lua /tmp/x.lua
