# group: scaling
# cpus: 4
# quick: no
seq 1 400000 | awk '{ print ($1 * 7919) % 1000003 }' >/tmp/x.txt
seconds sort -n --parallel=4 -S 64M -o /tmp/y.txt /tmp/x.txt
