# group: vectors
# unit: MB/s
cipher chacha20-poly1305
