# group: scaling
# cpus: 2
# base: parallel-1
# The same two at the same time.
cat >/tmp/x.lua <<'L'
local x, t = 42, {}
for i = 1, 12000000 do x = (x * 1103515245 + 12345) % 2147483648; t[i % 1000] = x end
L
seconds sh -c 'lua /tmp/x.lua & lua /tmp/x.lua; wait'
