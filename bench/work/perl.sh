# group: programs
cat >/tmp/x.pl <<'L'
use strict; use warnings;
my ($x, $n, %h) = (42, 0);
for my $i (1 .. 60000 * $ARGV[0]) { $x = ($x * 1103515245 + 12345) % 2147483648; $h{$x % 5000} .= chr(97 + $x % 26); }
for (sort keys %h) { $n += () = $h{$_} =~ /[aeiou][^aeiou]+/g; }
print "$n\n";
L
seconds perl /tmp/x.pl ${times:-15}
