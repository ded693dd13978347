# group: system
stress --fault 1 --fault-ops 8000
