# group: vectors
# Copies of 1 MiB through a pipe's end that keeps nothing.
seconds dd if=/dev/zero of=/dev/null bs=1M count=1500
