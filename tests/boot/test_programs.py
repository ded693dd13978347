"""Programs in the guest: 32-bit ones, and many that are read from a disk into reused memory.

usage: test_programs.py [--full]    more programs and rounds
"""

import os
import random
import subprocess
import sys
import tempfile

from guest import HERE, Guest, initrd_with
from cases import Skip, check_equal, run_cases

FULL = "--full" in sys.argv[1:]
VARIANTS = 96 if FULL else 32
ROUNDS = 40 if FULL else 5
BARE = ["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie",
        "-fno-stack-protector", "-Wl,--build-id=none"]


def compiled(work, name, source, *options, need=True):
    path = os.path.join(work, name)
    done = subprocess.run(["gcc", "-o", path, os.path.join(HERE, source), *options],
                          capture_output=True, text=True)
    if done.returncode and not need:
        raise Skip("the compiler makes no such program: " + done.stderr.strip()[-200:])
    if done.returncode:
        raise AssertionError(done.stderr)
    return path


def run_32(program, arguments, status, last):
    with Guest(["--cpus", "2"], initrd=program) as guest:
        guest.boot()
        got, text = guest.run("/program %s" % arguments, timeout=300)
        check_equal((got, text.split("\n")[-2:]), (status, [last, ""]),
                    "status and last line of a 32-bit program (%s)" % text)
        check_equal(guest.complaints(), [], "complaints of the kernel")
        check_equal(guest.power_off(), 0, "status")


def bare_32():
    with tempfile.TemporaryDirectory() as work:
        program = compiled(work, "prog32", "prog32.c", "-m32", "-msse2", *BARE, need=False)
        run_32(initrd_with(work, {"program": program}), "one two", 32, "all good")


def libc_32():
    with tempfile.TemporaryDirectory() as work:
        # Debian's 32-bit headers without gcc-multilib's link from /usr/include/asm.
        program = compiled(work, "libc32", "libc32.c", "-m32", "-O2", "-msse2", "-mfpmath=sse",
                           "-static", "-pthread", "-idirafter",
                           "/usr/include/x86_64-linux-gnu", "-lm", need=False)
        run_32(initrd_with(work, {"program": program}), "", 33, "libc32: 7 parts good")


def variant_result(seed):
    """What variant.c prints when it is compiled with this seed."""
    x, mask = 1, 0xffffffff
    for i in range(500):
        x = (x + i) & mask
        for n in range(8):
            factor = (seed * 0x9e3779b1 + n * 0x85ebca6b) & mask | 1
            x = (x * factor + seed * 0xc2b2ae35 + n * 0x27d4eb2f) & mask
            x ^= x >> 15
    return "%08x" % x


def from_a_disk(cpus, memory, forget):
    """Programs of equal addresses, each read anew from the disk into pages that held another.

    The guest never writes the code: the disk's device does, behind the processor's back. A
    translation that outlives the contents of its page shows as a wrong result. Debian's kernel
    fills pages with zeros as it allocates them, which would tell the processor: not here.
    """
    dice = random.Random(cpus)
    with tempfile.TemporaryDirectory() as work:
        files, results = {}, {}
        for seed in range(VARIANTS):
            name = "p%d" % seed
            files["programs/" + name] = compiled(work, name, "variant.c", "-s",
                                                 "-DSEED=%du" % seed, *BARE)
            results[name] = variant_result(seed)
        disk = os.path.join(work, "disk.img")
        with open(disk, "wb") as out:
            out.truncate(192 << 20)
        with Guest(["--cpus", str(cpus), "--memory", memory, "--disk", disk,
                    "--append", "init_on_alloc=0"],
                   initrd=initrd_with(work, files), timeout=300) as guest:
            guest.boot()
            guest.output("mke2fs -q /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt && "
                         "mv /programs/* /mnt && cp /bin/busybox /mnt && "
                         "dd if=/dev/zero of=/mnt/ballast bs=1M count=100 2>/dev/null; sync")
            want = guest.output("/bin/busybox sha256sum /bin/busybox").split()[0]
            wrong = []
            for _ in range(ROUNDS):
                names = list(results)
                dice.shuffle(names)
                for at in range(0, len(names), 8):
                    some = names[at:at + 8]
                    guest.output(forget)
                    got = guest.output("; ".join("/mnt/" + n for n in some)).split()
                    wrong += ["%s: %s instead of %s" % (n, g, results[n])
                              for n, g in zip(some, got) if g != results[n]]
                    if len(got) != len(some):
                        wrong.append("%d results of %d programs: %s" % (len(got), len(some), got))
                check_equal(guest.output("/mnt/busybox sha256sum /mnt/busybox").split()[0], want,
                            "busybox's sum of itself")
            check_equal(wrong[:10], [], "%d wrong results" % len(wrong))
            check_equal(guest.complaints(), [], "complaints of the kernel")
            check_equal(guest.power_off(), 0, "status")
        return "%d programs started" % (ROUNDS * VARIANTS)


DROP = "echo 3 > /proc/sys/vm/drop_caches"
run_cases([
    ("a 32-bit program without a C library", bare_32),
    ("a 32-bit program with threads and signals", libc_32),
    ("programs from a disk, dropped caches", lambda: from_a_disk(1, "256M", DROP)),
    ("programs from a disk, dropped caches, 2 vCPUs", lambda: from_a_disk(2, "256M", DROP)),
    ("programs from a disk, too little memory", lambda: from_a_disk(
        2, "144M", "cat /mnt/ballast > /dev/null")),
])
