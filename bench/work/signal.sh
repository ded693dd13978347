# group: system
# quick: no
stress --kill 1 --kill-ops 20000
