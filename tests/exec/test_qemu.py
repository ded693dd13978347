"""Debian's QEMU with `-accel kvm` under `anykvm exec`: boots Linux to its shell."""

import os
import re
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(HERE, "../lib"))

from tap import Tap                              # noqa: E402

ANYKVM = os.path.join(os.environ["ANYKVM_BUILD"], "anykvm")
GUEST = os.path.join(TOP, "build/guest")
LIMIT = 120     # seconds a boot may take on a busy machine

# name, launcher's options, QEMU's options, kernel series
CASES = (
    ("pc", [], "-M pc", "6.1"),
    ("pc, host's CPU", [], "-M pc -cpu host", "6.1"),
    ("q35, 2 CPUs", [], "-M q35 -cpu host -smp 2", "6.1"),
    ("microvm", [], "-M microvm -cpu host", "6.1"),
    ("q35, split irqchip", [], "-M q35,kernel-irqchip=split -cpu host", "6.1"),
    ("q35, kernel 6.12", [], "-M q35 -cpu host", "6.12"),
)
EXPECTED_WARNINGS = r"recommended cpus|deprecated|kernel-irqchip"


def boot(launcher, options, series):
    """(good, why)"""
    command = [ANYKVM, "exec", *launcher, "--", "qemu-system-x86_64", "-accel", "kvm",
               *options.split(), "-m", "512", "-nodefaults", "-nographic", "-serial", "stdio",
               "-no-reboot", "-kernel", "%s/vmlinuz-%s" % (GUEST, series),
               "-initrd", "%s/initramfs-%s.cpio.gz" % (GUEST, series),
               "-append", "console=ttyS0"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    os.set_blocking(child.stdout.fileno(), False)
    end, text, asked = time.monotonic() + LIMIT, "", False
    while time.monotonic() < end and child.poll() is None:
        text += (child.stdout.read() or b"").decode(errors="replace")
        if not asked and "anykvm guest:" in text:
            time.sleep(1)
            child.stdin.write(b"echo sum $((6 * 7)); poweroff\n")
            child.stdin.flush()
            asked = True
        time.sleep(0.1)
    text += (child.stdout.read() or b"").decode(errors="replace")
    if child.poll() is None:
        child.kill()
        child.wait()
        return False, "no end in time; the last of it:\n" + text[-1500:]
    warnings = [x for x in re.findall(r"qemu-system.*", text) if not re.search(EXPECTED_WARNINGS, x)]
    return "sum 42" in text and child.returncode == 0 and not warnings, \
        "status %d, %s\n%s" % (child.returncode, warnings, text[-1500:])


def main():
    if not shutil.which("qemu-system-x86_64"):
        print("1..0 # SKIP qemu-system-x86_64 is not installed")
        return
    if not os.path.exists(GUEST + "/vmlinuz-6.1"):
        print("1..0 # SKIP scripts/guest-assets has not been run")
        return
    tap = Tap(len(CASES))
    for name, launcher, options, series in CASES:
        if not os.path.exists("%s/vmlinuz-%s" % (GUEST, series)):
            tap.skip(name, "no kernel " + series)
            continue
        good, why = boot(launcher, options, series)
        tap.case("QEMU " + name, good, why)
    tap.finish()


if __name__ == "__main__":
    main()
