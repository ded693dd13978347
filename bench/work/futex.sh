# group: system
stress --futex 1 --futex-ops 20000
