# group: devices
# quick: no
# unit: MB/s
[ -n "$BENCH_URL" ] || exit 1
head -c 16000000 /dev/zero >/tmp/x.post
began=$(now)
busybox wget -q -O /dev/null --post-file /tmp/x.post "$BENCH_URL" || exit 1
ended=$(now)
echo "result $((16000000 * 1000 / (ended - began)))"
