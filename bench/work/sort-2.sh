# group: scaling
# quick: no
# cpus: 2
# base: sort-1
seq 1 400000 | awk '{ print ($1 * 7919) % 1000003 }' >/tmp/x.txt
seconds sort -n --parallel=2 -S 64M -o /tmp/y.txt /tmp/x.txt
