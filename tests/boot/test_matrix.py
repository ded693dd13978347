"""Boots: kernels, vCPUs and memory sizes.

usage: test_matrix.py [--full [--rounds N]] [--kernel V] [--cpus N] [--memory M]
The short form is for every day, the full form boots every combination 20 times.
"""

import argparse
import itertools
import re

from guest import Guest
from cases import Skip, check, check_equal, run_cases

KERNELS = ("6.1", "6.12")
CPUS = (1, 2, 4)
MEMORY = (256, 1024, 8192)
SHORT = [("6.1", 1, 256), ("6.1", 2, 1024), ("6.1", 4, 8192),
         ("6.12", 1, 1024), ("6.12", 2, 256), ("6.12", 4, 1024)]


def host_has(mib):
    with open("/proc/meminfo") as info:
        free = re.search(r"MemAvailable:\s+(\d+)", info.read())
    return int(free.group(1)) // 1024 > mib


def boot(series, cpus, memory):
    if not host_has(memory):
        raise Skip("the host has less than %d MiB free" % memory)
    with Guest(["--cpus", str(cpus), "--memory", "%dM" % memory], series=series) as guest:
        guest.boot()
        check(guest.output("uname -r").startswith(series + "."), "another kernel is running")
        check_equal(int(guest.output("nproc")), cpus, "CPUs")
        total = int(guest.output("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
        check(memory * 0.6 <= total <= memory, "MemTotal is %d MiB" % total)
        clock = guest.output("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
        check(clock in ("kvm-clock", "tsc"), "the clock source is " + clock)
        lines = guest.complaints()
        check(not lines, "the kernel complains:\n" + "\n".join(lines))
        interrupts = guest.output("grep -E '^ *(ERR|MIS):' /proc/interrupts || true")
        check(not re.search(r": +[1-9]", interrupts), "interrupts are lost: " + interrupts)
        check_equal(guest.power_off(), 0, "status after poweroff")
        return "%.1f s to the shell" % guest.seconds


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--full", action="store_true")
    options.add_argument("--rounds", type=int)
    options.add_argument("--kernel", choices=KERNELS)
    options.add_argument("--cpus", type=int)
    options.add_argument("--memory", type=int)
    args = options.parse_args()
    wanted = list(itertools.product(KERNELS, CPUS, MEMORY)) if args.full else SHORT
    if args.kernel or args.cpus or args.memory:
        wanted = list(itertools.product([args.kernel or "6.1"], [args.cpus or 2],
                                        [args.memory or 1024]))
    rounds = args.rounds or (20 if args.full else 1)
    run_cases([("Linux %s, %d vCPU, %d MiB%s" % (k, c, m, ", round %d" % r if rounds > 1 else ""),
                lambda k=k, c=c, m=m: boot(k, c, m))
               for k, c, m in wanted for r in range(1, rounds + 1)])


main()
