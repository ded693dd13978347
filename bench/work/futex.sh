# group: system
# quick: no
stress --futex 1 --futex-ops 20000
