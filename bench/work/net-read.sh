# group: devices
# unit: MB/s
[ -n "$BENCH_URL" ] || exit 1
began=$(now)
n=$(busybox wget -q -O - "$BENCH_URL" | wc -c)
ended=$(now)
[ "$n" -gt 0 ] && echo "result $((n * 1000 / (ended - began)))"
