# group: vectors
# unit: MB/s
cipher sha256
