"""stress-ng with its own verification, in a guest with 4 vCPUs.

usage: test_stress.py [--seconds N]    each class runs that long (5; minutes before a release)
"""

import argparse
import os

from guest import Guest, asset
from cases import check, check_equal, run_cases

CLASSES = [
    ("cpu", "--cpu 4"),
    ("vm", "--vm 2 --vm-bytes 64M"),
    ("mmap", "--mmap 2 --mmap-bytes 32M"),
    ("fork", "--fork 4"),
    ("signal", "--signal 2 --sigsegv 2 --sigfd 1"),
    ("futex", "--futex 2 --sem 2"),
    ("timer", "--timer 1 --timerfd 1 --itimer 1 --nanosleep 1"),
    ("matrix and vectors", "--matrix 2 --vecmath 2 --memcpy 2"),
    ("atomic and cache", "--atomic 2 --cache 2 --lockbus 1"),
    ("switch and pipe", "--switch 2 --pipe 2"),
]


def stress(words, seconds, guest_options):
    with Guest(guest_options, initrd=asset("initramfs-bench.cpio.gz"), timeout=180) as guest:
        guest.boot()
        status, text = guest.run("stress-ng --verify --temp-path /tmp -t %d %s 2>&1"
                                 % (seconds, words), timeout=seconds * 4 + 120)
        check_equal(status, 0, "status of stress-ng (%s)" % text[-600:])
        check(" fail" not in text.lower().replace("failed: 0", ""), text[-600:])
        check_equal(guest.complaints(), [], "complaints of the kernel")
        check_equal(guest.power_off(), 0, "status")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--cpus", type=int, default=4)
    args = options.parse_args()
    if not os.path.exists(asset("initramfs-bench.cpio.gz")):
        print("1..0 # SKIP there is no bench initramfs: scripts/guest-assets bench")
        return
    machine = ["--cpus", str(args.cpus), "--memory", "1G"]
    run_cases([("stress-ng " + name, lambda w=words: stress(w, args.seconds, machine))
               for name, words in CLASSES])


main()
