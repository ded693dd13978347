# group: vectors
stress --matrix 1 --matrix-method prod --matrix-ops 300
