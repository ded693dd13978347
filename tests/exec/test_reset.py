"""Resets and CPU models in QEMU under `anykvm exec`."""

import os
import sys
from functools import partial

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import Qemu, main                      # noqa: E402

# Every model that QEMU has for the vendor, as far as SeaBIOS's words; no warning but the gaps'.
INTEL = """486 pentium pentium2 pentium3 coreduo n270 kvm32 qemu32 core2duo Conroe Penryn Nehalem
    Westmere SandyBridge IvyBridge Haswell-noTSX Haswell Broadwell Skylake-Client Skylake-Server
    Cascadelake-Server Cooperlake Icelake-Server Denverton Snowridge KnightsMill""".split()
AMD = """athlon phenom kvm64 qemu64 Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5 EPYC
    EPYC-Rome EPYC-Milan Dhyana max host""".split()
VMX = """Conroe Penryn Nehalem Westmere SandyBridge IvyBridge Haswell Broadwell Skylake-Client
    Skylake-Server Cascadelake-Server Cooperlake Icelake-Server Denverton Snowridge""".split()
SHORT = ["486", "coreduo", "n270", "Nehalem", "Haswell", "Opteron_G3", "EPYC-Milan", "max"]


def resets(machine, cpus):
    """By the guest (two ways) and by the monitor, with one process."""
    with Qemu("-cpu", "host", "-smp", str(cpus), machine=machine, linux="6.1") as q:
        for how in ("reboot -f", None, "echo b >/proc/sysrq-trigger"):
            q.shell()
            assert q.run("nproc").strip() == str(cpus)
            if how:
                q.send(how + "\n")
            else:
                q.hmp("system_reset")
        q.shell()
        # In the middle of the boot, too.
        for wait in ("SeaBIOS|Linux version", "Linux version"):
            q.hmp("system_reset")
            q.expect(wait)
        q.shell()
        q.send("poweroff\n")
        q.end()


def no_reboot():
    with Qemu("-cpu", "host", "-no-reboot", machine="pc", linux="6.1") as q:
        q.shell()
        q.send("reboot -f\n")
        q.end()


def model(name, vendor):
    """SeaBIOS runs with this CPU and looks for a disk that is not there."""
    with Qemu("-cpu", name, "-smp", "2", "-device", "sga", machine="pc", memory="64",
              launcher=["--cpu", vendor]) as q:
        q.expect("No bootable device")
        q.quiet()


def models():
    full = "--full" in sys.argv
    for vendor, names in (("intel", INTEL), ("amd", AMD), ("intel", [v + ",+vmx" for v in VMX])):
        for name in names:
            if full or name.split(",")[0] in SHORT:
                yield "-cpu %s, %s" % (name, vendor), partial(model, name, vendor)


if __name__ == "__main__":
    main([
        ("resets, q35, 2 CPUs", partial(resets, "q35", 2)),
        ("resets, pc, 1 CPU", partial(resets, "pc", 1)),
        ("-no-reboot", no_reboot),
    ] + list(models()), full=[
        ("resets, q35, 4 CPUs", partial(resets, "q35", 4)),
    ])
