# group: system
stress --get 1 --get-ops 4000
