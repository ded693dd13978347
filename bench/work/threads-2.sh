# group: scaling
# quick: no
# cpus: 2
# base: threads-1
# The same in two threads that share their memory.
i=0
while [ $i -lt 16 ]; do head -c 2000000 /usr/bin/stress-ng; i=$((i + 1)); done >/tmp/x.bin
seconds zstd -q -10 -T2 -B2000000 -c /tmp/x.bin
