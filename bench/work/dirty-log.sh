# group: negative
# dirty: yes
# targets: native,tcg,exec
# Memory is written during a live migration that never ends.
stress --vm 1 --vm-bytes 48M --vm-keep --vm-method write64 --vm-ops 600
