# group: devices
# unit: MB/s
# The whole disk once, without the guest's cache.
[ -n "$BENCH_DISK" ] || exit 1
dd if="$BENCH_DISK" of=/dev/null bs=1M count=256 $BENCH_DIRECT 2>&1 | rate 268.435456
