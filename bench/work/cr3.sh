# group: negative
# A token goes around 24 processes; each touches 64 pages of its own when it has it.
cat >/tmp/x.pl <<'L'
my ($n, $rounds) = (24, 60);
my @pipe = map { pipe(my $r, my $w); [$r, $w] } 0 .. $n;
for my $i (0 .. $n - 1) {
	next if fork;
	my ($memory, $byte) = ("x" x 262144);
	for (1 .. $rounds) {
		sysread $pipe[$i][0], $byte, 1;
		substr($memory, $_ * 4096, 1) = $byte for 0 .. 63;
		syswrite $pipe[$i + 1][1], $byte, 1;
	}
	exit;
}
my $byte;
for (1 .. $rounds) {
	syswrite $pipe[0][1], "t", 1;
	sysread $pipe[$n][0], $byte, 1;
}
1 while wait != -1;
L
seconds perl /tmp/x.pl
