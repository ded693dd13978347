# group: negative
# quick: no
# Large programs that end at once, each at addresses of its own: nothing is used twice.
cat >/tmp/x.sh <<'L'
i=0
while [ $i -lt 8 ]; do
	python3 -c pass
	perl -e 1
	openssl version
	sqlite3 :memory: 'select 1'
	i=$((i + 1))
done
L
seconds dash /tmp/x.sh
