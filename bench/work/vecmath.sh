# group: vectors
stress --vecmath 1 --vecmath-ops 30
