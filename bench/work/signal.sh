# group: system
stress --kill 1 --kill-ops 20000
