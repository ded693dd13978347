# group: memory
# quick: no
# Vectors that do not fit in the caches: copy, scale, add, triad.
stress --stream 1 --stream-l3-size 4M --stream-ops 2
