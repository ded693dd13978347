# group: scaling
# cpus: 4
# quick: no
seconds hackbench -g 2 -l 200
