# group: system
stress --switch 1 --switch-ops 40000
