# group: programs
cat >/tmp/x.py <<'L'
import sys
def primes(n):
    sieve = bytearray([1]) * (n + 1)
    for i in range(2, int(n ** 0.5) + 1):
        if sieve[i]:
            for j in range(i * i, n + 1, i):
                sieve[j] = 0
    return sum(sieve) - 2
for _ in range(int(sys.argv[1])):
    assert primes(200000) == 17984
    d = {}
    for i in range(100000):
        d[str(i * 7919 % 100003)] = i
    assert len(sorted(d)) == 100000
L
seconds python3 /tmp/x.py ${times:-8}
