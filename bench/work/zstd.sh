# group: programs
head -c 6000000 /usr/bin/stress-ng >/tmp/x.bin
seconds sh -c 'zstd -q -9 -T1 -c /tmp/x.bin | zstd -q -d -c >/dev/null'
