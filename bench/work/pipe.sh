# group: system
stress --pipe 1 --pipe-ops 60000
