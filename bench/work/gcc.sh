# group: programs
# image: gcc
# Compile with optimization: C made here, so that no source need be shipped.
awk 'BEGIN { print "#include <stdio.h>\n#include <string.h>";
for (i = 0; i < 60; i++) printf "int f%d(int *p, int n) { int s = 0; for (int i = 0; i < n; i++) { if (p[i] %% %d) s += p[i] * %d; else s ^= p[i] >> %d; switch (s & 7) { case 1: s += 3; break; case 2: s *= 5; break; case 6: s -= p[0]; } } printf(\"%%d\", s); return s; }\n", i, i + 2, i, i % 13 }' >/tmp/x.c
seconds gcc -O2 -c -o /tmp/x.o /tmp/x.c
