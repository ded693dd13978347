"""stress-ng with its own verification, in a guest with 4 vCPUs.

usage: test_stress.py [--full] [--seconds N] [--cpus N] [--class NAME]
The short form runs every class for 2 seconds in one guest; the full form gives each a guest of
its own and a minute, and ends with all classes at once.
"""

import argparse
import os

from guest import Guest, asset
from cases import check, check_equal, run_cases

# Operations that a guest on any KVM lacks are no failure of ours: stress-ng skips them itself.
CLASSES = {
    "cpu": "--cpu 4",
    "vm": "--vm 2 --vm-bytes 64M --vm-populate",
    "mmap": "--mmap 2 --mmap-bytes 32M --mremap 1 --mremap-bytes 8M",
    "fork": "--fork 2 --vfork 1 --clone 1 --clone-max 64",
    "signal": "--signal 1 --sigsegv 2 --sigfd 1 --sigq 1 --sigpipe 1 --sigfpe 1",
    "futex": "--futex 2 --sem 1 --mutex 1",
    "timer": "--timer 1 --timerfd 1 --itimer 1 --nanosleep 1 --clock 1",
    "matrix and vectors": "--matrix 2 --vecmath 1 --memcpy 1 --fp 1 --crypt 1",
    "atomic and cache": "--atomic 2 --cache 1 --lockbus 1 --membarrier 1",
    "switch and pipe": "--switch 2 --pipe 1 --poll 1 --eventfd 1",
}


def stress(guest, words, seconds):
    # sigq fills the queue of signals when its receiver waits for a processor, and a timer needs one.
    status, text = guest.run("busybox sh -c 'ulimit -i unlimited; "
                             "exec stress-ng --verify --temp-path /tmp -t %d %s 2>&1'"
                             % (seconds, words), timeout=seconds * 4 + 240)
    check_equal(status, 0, "status of stress-ng (%s)" % text[-1200:])
    check(" fail" not in text.lower().replace("failed: 0", ""), text[-1200:])
    check_equal(guest.complaints(), [], "complaints of the kernel")


def started(options):
    return Guest(options, initrd=asset("initramfs-bench.cpio.gz"), timeout=180).boot()


def alone(words, seconds, options):
    with started(options) as guest:
        stress(guest, words, seconds)
        check_equal(guest.power_off(), 0, "status")


def main():
    options = argparse.ArgumentParser(description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--full", action="store_true")
    options.add_argument("--seconds", type=int)
    options.add_argument("--cpus", type=int, default=4)
    options.add_argument("--class", dest="only", choices=CLASSES)
    args = options.parse_args()
    if not os.path.exists(asset("initramfs-bench.cpio.gz")):
        print("1..0 # SKIP there is no bench initramfs: scripts/guest-assets bench")
        return
    machine = ["--cpus", str(args.cpus), "--memory", "1G"]
    classes = {args.only: CLASSES[args.only]} if args.only else CLASSES
    if args.full:
        seconds = args.seconds or 60
        classes = dict(classes)
        if not args.only:
            classes["all at once"] = " ".join(CLASSES.values())
        run_cases([("stress-ng %s, %d s" % (name, seconds),
                    lambda w=words: alone(w, seconds, machine))
                   for name, words in classes.items()])
        return
    guest = []

    def one(words):
        # A guest that a class has broken does not serve the next one.
        if not guest:
            guest.append(started(machine))
        try:
            stress(guest[0], words, args.seconds or 2)
        except Exception:
            guest.pop().__exit__()
            raise

    def end():
        check_equal(guest.pop().power_off() if guest else 0, 0, "status")

    # Each program's memory in the window, which otherwise only long-running ones have.
    window = [("stress-ng %s, --window always" % name,
               lambda n=name: alone(CLASSES[n], 2, [*machine, "--window", "always"]))
              for name in ("vm", "mmap", "fork") if name in classes]
    run_cases([("stress-ng " + name, lambda w=words: one(w)) for name, words in classes.items()]
              + [("power-off afterwards", end)] + window)


main()
