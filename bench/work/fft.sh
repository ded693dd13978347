# group: vectors
stress --cpu 1 --cpu-method fft --cpu-ops 800
