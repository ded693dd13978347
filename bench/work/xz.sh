# group: programs
head -c 4000000 /usr/bin/stress-ng >/tmp/x.bin
seconds sh -c 'xz -3 -T1 -c /tmp/x.bin | xz -d -c >/dev/null'
