"""Debian's QEMU with `-accel kvm` under `anykvm exec`: boots Linux to its shell.

--full: each machine 20 times in a row.
"""

import os
import sys
from functools import partial

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import LIMIT, Qemu, main               # noqa: E402

# machine, other options, launcher's options, kernel series
BOOTS = (
    ("pc", "", [], "6.1"),
    ("q35", "-cpu host -smp 2", [], "6.1"),
    ("microvm", "-cpu host", [], "6.1"),
    ("q35,kernel-irqchip=split", "-cpu host -smp 4", [], "6.1"),
    ("pc,kernel-irqchip=off", "-cpu host", [], "6.1"),
    ("q35", "-cpu host -smp 4", [], "6.12"),
    ("microvm", "-cpu host -smp 2", ["--raw"], "6.1"),
    # Models of both vendors.
    ("q35", "-cpu Skylake-Client-v4 -smp 2", ["--cpu", "intel"], "6.1"),
    ("q35", "-cpu EPYC -smp 2", ["--cpu", "amd"], "6.1"),
    # A host of the other vendor, and an older one: QEMU asks its own CPUID instruction.
    ("q35", "-cpu host -smp 2", ["--cpu", "intel"], "6.1"),
    ("q35", "-cpu host", ["--cpu", "amd"], "6.12"),
    ("pc", "-cpu host", ["--cpu", "intel/Haswell"], "6.1"),
)
FULL_BOOTS = (
    ("pc", "-cpu host -smp 1", [], "6.1"),
    ("pc", "-cpu host -smp 2", [], "6.12"),
    ("pc", "-smp 4", [], "6.1"),
    ("q35", "-cpu host -smp 1", [], "6.12"),
    ("q35", "-cpu host -smp 2", [], "6.1"),
    ("q35", "-cpu host -smp 4", [], "6.1"),
    ("microvm", "-cpu host -smp 1", [], "6.12"),
    ("microvm", "-cpu host -smp 2", [], "6.1"),
    ("microvm", "-smp 4", [], "6.1"),
)
ROUNDS = 20


# Shared memory, for --window.
SHARED = ["-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-machine",
          "memory-backend=ram"]


def cpus(options):
    words = options.split()
    return words[words.index("-smp") + 1] if "-smp" in words else "1"


def boot(machine, options, launcher, series):
    with Qemu("-no-reboot", *options.split(), machine=machine, launcher=launcher, linux=series,
              memory="512") as q:
        q.shell()
        assert q.run("nproc").strip() == cpus(options), "number of CPUs"
        assert q.run("echo sum $((6 * 7))") == "sum 42\n", "a sum"
        q.send("poweroff\n")
        q.end()


def counter(q, name):
    """A counter, the sum of all vCPUs."""
    answer = q.qmp("query-stats", target="vcpu", providers=[{"provider": "kvm", "names": [name]}])
    return sum(vcpu["stats"][0]["value"] for vcpu in answer)


def window():
    with Qemu("-no-reboot", "-cpu", "host", "-smp", "2", *SHARED, machine="q35",
              launcher=["--window"], linux="6.1", memory="512") as q:
        q.shell()
        q.run("i=0; while [ $i -lt 400000 ]; do i=$((i + 1)); done; echo $i")
        assert counter(q, "anykvm_tlb_window_pages") > 0, "no program has run in the window"
        assert q.run("echo sum $((6 * 7))") == "sum 42\n", "a sum"
        q.qmp("system_reset")
        q.end()


def no_window():
    with Qemu("-no-reboot", "-cpu", "host", machine="q35", launcher=["--window"], linux="6.1",
              memory="512") as q:
        q.shell()
        assert q.run("echo sum $((6 * 7))") == "sum 42\n", "a sum"
        q.send("poweroff\n")
        assert q.child.wait(LIMIT) == 0, "status"
        said = q.warnings()
        assert len(said) == 1 and "share=on" in said[0], "one word of memory that is not shared"


def many(*args):
    for _ in range(ROUNDS):
        boot(*args)


def name(machine, options, launcher, series):
    return " ".join(["QEMU", machine, options, *launcher, "kernel", series])


if __name__ == "__main__":
    main([(name(*b), partial(boot, *b)) for b in BOOTS] +
         [("QEMU with a window", window), ("QEMU with --window and private memory", no_window)],
         full=[("%s, %d times" % (name(*b), ROUNDS), partial(many, *b)) for b in FULL_BOOTS])
