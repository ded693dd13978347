# group: system
stress --mmap 1 --mmap-bytes 16M --mmap-ops 4
