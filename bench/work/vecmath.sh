# group: vectors
# quick: no
stress --vecmath 1 --vecmath-ops 1500
