# group: devices
# quick: no
# unit: MB/s
# One request of 4 KiB after the other.
[ -n "$BENCH_DISK" ] || exit 1
dd if="$BENCH_DISK" of=/dev/null bs=4k count=8000 $BENCH_DIRECT 2>&1 | rate 32.768
