# group: system
stress --fork 1 --fork-ops 1500
