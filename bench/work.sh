# Sourced by every script in work/: they print one line, `result NUMBER`.

now() {
	date +%s%N
}

# seconds COMMAND...: how long it takes; its output is dropped, its failure is ours.
seconds() {
	began=$(now)
	"$@" >/tmp/out 2>&1 </dev/null || {
		tail -3 /tmp/out >&2
		exit 1
	}
	ended=$(now)
	echo "result $(((ended - began) / 1000000000)).$(printf %09d $(((ended - began) % 1000000000)))"
}

# stress WORDS...: stress-ng for a fixed number of operations.
stress() {
	seconds stress-ng --temp-path /tmp "$@"
}

# cipher NAME: MB/s of openssl in blocks of 16 KiB.
cipher() {
	openssl speed -mr -seconds 1 -bytes 16384 -evp "$1" 2>/dev/null |
		awk -F: '/^\+F:/ { printf "result %.1f\n", $NF / 1e6 }'
}

# rate MB: MB/s from what dd says.
rate() {
	LC_ALL=C awk -v mb="$1" '/copied/ {
		for (i = 1; i < NF; i++) if ($i == "copied,") printf "result %.1f\n", mb / $(i + 1) }'
}
