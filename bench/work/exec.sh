# group: system
# A shell script that starts short programs.
cat >/tmp/x.sh <<'L'
i=0
while [ $i -lt 120 ]; do
	/usr/bin/env true
	i=$((i + 1))
done
L
seconds dash /tmp/x.sh
