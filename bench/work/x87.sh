# group: vectors
stress --cpu 1 --cpu-method longdouble --cpu-ops 400
