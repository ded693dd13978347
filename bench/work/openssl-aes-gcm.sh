# group: vectors
# unit: MB/s
cipher aes-256-gcm
