# group: scaling
# quick: no
# cpus: 2
seconds hackbench -g 2 -l 200
