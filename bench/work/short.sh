# group: negative
# Programs that end before a translator has earned what it spent on them: some ten milliseconds each.
times=1
for name in lua perl python3 sqlite; do
	(. "./work/$name.sh")
done | awk '/^result / { sum += $2; n++ } END { if (n == 4) print "result", sum }'
