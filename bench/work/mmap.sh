# group: system
# quick: no
stress --mmap 1 --mmap-bytes 16M --mmap-ops 4
