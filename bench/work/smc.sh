# group: negative
# A program that changes the function it calls, in the same place and in new ones.
cat >/tmp/x.py <<'L'
import ctypes, mmap
memory = mmap.mmap(-1, 1 << 16, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
kind = ctypes.CFUNCTYPE(ctypes.c_int)
call = [kind(base + 64 * i) for i in range(64)]
for i in range(64):
    memory[64 * i:64 * i + 6] = b"\xb8" + (0).to_bytes(4, "little") + b"\xc3"
total = 0
for i in range(6000):
    at = 0 if i & 1 else 64 * (i >> 1 & 63)
    memory[at + 1:at + 5] = i.to_bytes(4, "little")
    total += call[at // 64]()
assert total == 6000 * 5999 // 2
L
seconds python3 /tmp/x.py
