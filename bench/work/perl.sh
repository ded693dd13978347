# group: programs
cat >/tmp/x.pl <<'L'
my (%h, $x); $x = 42;
for my $i (1 .. 60000) { $x = ($x * 1103515245 + 12345) % 2147483648; $h{$x % 5000} .= chr(97 + $x % 26); }
my $n = 0; for (sort keys %h) { $n += () = $h{$_} =~ /[aeiou][^aeiou]+/g; }
print "$n\n";
L
seconds perl /tmp/x.pl
