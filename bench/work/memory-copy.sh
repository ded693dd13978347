# group: memory
# The kernel clears user memory, 1 MiB at a time.
seconds dd if=/dev/zero of=/dev/null bs=1M count=600
