# group: vectors
# unit: sign/s
openssl speed -mr -seconds 1 rsa2048 2>/dev/null |
	awk -F: '/^\+F2:/ { printf "result %.1f\n", ($4 > 1) ? $4 : 1 / $4 }'
