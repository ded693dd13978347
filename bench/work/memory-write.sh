# group: memory
stress --vm 1 --vm-bytes 32M --vm-keep --vm-method write64 --vm-ops 400
