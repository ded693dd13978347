# group: scaling
# quick: no
# cpus: 2
# Many pieces of compression in one thread.
i=0
while [ $i -lt 16 ]; do head -c 2000000 /usr/bin/stress-ng; i=$((i + 1)); done >/tmp/x.bin
seconds zstd -q -10 -T1 -B2000000 -c /tmp/x.bin
