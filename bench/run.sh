#!/bin/sh
# run.sh NAME...: inside a target, runs the named works and tells each one's result as
# `BENCH NAME NUMBER` or `BENCH NAME failed`.
cd /bench || exit 1
for name; do
	printf 'BENCH %s ' "$name"
	number=$( (. ./work.sh; . "./work/$name.sh") 2>/tmp/errors | sed -n 's/^result //p')
	echo "${number:-failed}"
	[ -n "$number" ] || sed 's/^/  /' /tmp/errors
	rm -f /tmp/x.* /tmp/y.* /tmp/out
done
