"""Boots: kernels, vCPUs and memory sizes, and reboots in a row.

usage: test_matrix.py [--full] [--rounds N] [--reboots N] [--kernel V] [--cpus N] [--memory M]
The short form is for every day; the full form boots every combination 20 times and then lets one
guest of each kernel and number of vCPUs reboot 20 times. --kernel, --cpus and --memory choose.
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


def inspect(guest, series, cpus, memory):
    """What every boot must show."""
    check(guest.output("uname -r").startswith(series + "."), "another kernel is running")
    check_equal(int(guest.output("nproc")), cpus, "CPUs")
    total = int(guest.output("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
    check(memory * 0.6 <= total <= memory, "MemTotal is %d MiB" % total)
    clock = guest.output("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    check(clock in ("kvm-clock", "tsc"), "the clock source is " + clock)
    lines = guest.complaints(every_warning=True)
    check(not lines, "the kernel complains:\n" + "\n".join(lines))
    interrupts = guest.output("grep -E '^ *(ERR|MIS):' /proc/interrupts || true")
    check(not re.search(r": +[1-9]", interrupts), "interrupts are lost: " + interrupts)


def machine(cpus, memory):
    if not host_has(memory):
        raise Skip("the host has less than %d MiB free" % memory)
    return ["--cpus", str(cpus), "--memory", "%dM" % memory]


def boot(series, cpus, memory):
    with Guest(machine(cpus, memory), series=series) as guest:
        guest.boot()
        inspect(guest, series, cpus, memory)
        check_equal(guest.power_off(), 0, "status after poweroff")
        return "%.1f s to the shell" % guest.seconds


def reboot(series, cpus, memory, times):
    with Guest(machine(cpus, memory), series=series) as guest:
        guest.boot()
        for n in range(1, times + 1):
            guest.output("touch /tmp/before")
            guest.console.sendline("reboot")
            guest.boot()
            check(guest.run("ls /tmp/before 2>/dev/null")[0], "reboot %d kept a file" % n)
            up = float(guest.output("cut -d' ' -f1 /proc/uptime"))
            check(up < guest.seconds + 5, "the clock went on: up %.1f s after %.1f s"
                  % (up, guest.seconds))
            inspect(guest, series, cpus, memory)
        check_equal(guest.power_off(), 0, "status after poweroff")


def main():
    options = argparse.ArgumentParser(description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--full", action="store_true")
    options.add_argument("--rounds", type=int)
    options.add_argument("--reboots", type=int)
    options.add_argument("--kernel", choices=KERNELS)
    options.add_argument("--cpus", type=int)
    options.add_argument("--memory", type=int)
    args = options.parse_args()
    chosen = args.full or args.kernel or args.cpus or args.memory
    wanted = list(itertools.product([args.kernel] if args.kernel else KERNELS,
                                    [args.cpus] if args.cpus else CPUS,
                                    [args.memory] if args.memory else MEMORY))
    rebooting = [(k, c, 512) for k, c in dict.fromkeys((k, c) for k, c, _ in wanted)]
    if not chosen:
        wanted, rebooting = SHORT, [("6.1", 4, 512), ("6.12", 2, 512)]
    rounds = args.rounds or (20 if args.full else 1)
    reboots = (20 if args.full else 3) if args.reboots is None else args.reboots
    cases = [("Linux %s, %d vCPU, %d MiB%s" % (k, c, m, ", round %d" % r if rounds > 1 else ""),
              lambda k=k, c=c, m=m: boot(k, c, m))
             for k, c, m in wanted for r in range(1, rounds + 1)]
    if reboots:
        cases += [("Linux %s, %d vCPU, %d reboots" % (k, c, reboots),
                   lambda k=k, c=c, m=m: reboot(k, c, m, reboots)) for k, c, m in rebooting]
    run_cases(cases)


main()
