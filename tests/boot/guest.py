"""A guest on a pseudo-terminal: started by `anykvm run`, driven through its shell.

The environment variable ANYKVM names another program than build/anykvm.
"""

import os
import re
import subprocess
import sys
import time

import pexpect

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(TOP, "scripts", "lib"))

from initramfs import Tree    # noqa: E402

BUILD = os.environ.get("ANYKVM_BUILD", os.path.join(TOP, "build"))
PROGRAM = os.environ.get("ANYKVM", os.path.join(BUILD, "anykvm"))
ASSETS = os.environ.get("ANYKVM_GUEST", os.path.join(BUILD, "guest"))
TIMEOUT = int(os.environ.get("ANYKVM_BOOT_TIMEOUT", "90"))

PROMPT = r"anykvm:\S*# "

# What a kernel log must not hold.
COMPLAINTS = re.compile(
    r"\bBUG\b|WARNING:|unhandled|unstable|soft lockup|hard LOCKUP|rcu: INFO|hung_task|"
    r"blocked for more than|Call Trace|Firmware Bug|general protection|segfault|"
    r"lost (timer|interrupt|tick)|irq \d+: nobody cared|IO-APIC.*failed|MP-BIOS bug|"
    r"not responding|clocksource: Long readout|timed out|Kernel panic|\bOops\b|\btraps:", re.I)
HARMLESS = re.compile(r"report a bug|IRQ affinity", re.I)
# What it may hold at the level of a warning or worse: a PC without PCI Express, one without a
# mouse, and a host that was too busy to run the vCPU for some milliseconds. Nothing else is
# allowed in the log of a boot.
ALLOWED_WARNINGS = re.compile(
    r"acpi PNP0A03:00: fail to add MMCONFIG information|"
    r"i8042: PNP: PS/2 appears to have AUX port disabled|"
    r"hrtimer: interrupt took \d+ ns|"
    r"core: CPUID marked event: '.*' unavailable")


class GuestError(Exception):
    """The guest did not do what a test waits for; holds the end of its console."""


def asset(name):
    return os.path.join(ASSETS, name)


def kernel_options(series="6.1", initrd=None):
    return ["--kernel", asset("vmlinuz-" + series),
            "--initrd", initrd or asset("initramfs-%s.cpio.gz" % series)]


def initrd_with(work, files, base="initramfs-6.1.cpio.gz"):
    """An initrd in the folder `work`: an asset's, with files (path in the guest -> path here)."""
    tree = Tree(merged=False)
    for name, source in files.items():
        tree.copy(name, source)
    extra, joined = os.path.join(work, "extra.gz"), os.path.join(work, "joined")
    tree.write(extra)
    with open(joined, "wb") as out:
        for part in (asset(base), extra):
            with open(part, "rb") as source:
                out.write(source.read())
    return joined


def missing():
    """Why no guest can be booted here, or None."""
    for path in (PROGRAM, asset("vmlinuz-6.1"), asset("initramfs-6.1.cpio.gz")):
        if not os.path.exists(path):
            return "there is no " + os.path.relpath(path, TOP)
    return None


class Guest:
    """with Guest(["--cpus", "2"]) as g: g.boot(); g.run("uname"); g.power_off()"""

    def __init__(self, options=(), series="6.1", initrd=None, timeout=TIMEOUT):
        self.timeout = timeout
        self.argv = [PROGRAM, "run", *kernel_options(series, initrd), *options]
        self.console = pexpect.spawn(self.argv[0], self.argv[1:], timeout=timeout,
                                     encoding="latin1", dimensions=(24, 200))
        self.console.delaybeforesend = None
        self.seconds = None
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.console.isalive():
            self.console.kill(9)
        self.console.close(force=True)

    def expect(self, pattern, timeout=None):
        """Wait for a pattern on the console; returns the match."""
        try:
            self.console.expect(pattern, timeout=timeout or self.timeout)
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            what = "timed out" if isinstance(error, pexpect.TIMEOUT) else "ended"
            tail = "\n".join((self.console.before or "").splitlines()[-25:])
            raise GuestError("%s waiting for %r; the console's end:\n%s"
                             % (what, pattern, tail)) from None
        self.seen += self.console.before
        return self.console.match

    def boot(self):
        """Wait for the shell and put a loop in its place that tells every status.

        For a new guest and for one that was told to reboot.
        """
        start = time.monotonic()
        self.expect(PROMPT)
        self.seconds = time.monotonic() - start
        self.console.sendline('stty -echo; dmesg -n 1; echo @"go"@; while read -r l; do eval "$l"; '
                              'echo "@$?@"; done')
        self.expect(r"@go@\r*\n")
        return self

    def run(self, command, timeout=None):
        """(status, output) of one line of shell."""
        self.console.sendline(command)
        status = int(self.expect(r"@(\d+)@\r*\n", timeout).group(1))
        return status, self.console.before.replace("\r", "")

    def output(self, command, timeout=None):
        status, text = self.run(command, timeout)
        if status:
            raise GuestError("%s: status %d: %s" % (command, status, text))
        return text.strip()

    def complaints(self, every_warning=False):
        """The lines of the kernel's log that tell of trouble.

        every_warning: also all that the kernel itself logs as a warning or worse, but for
        ALLOWED_WARNINGS.
        """
        def bad(line):
            if COMPLAINTS.search(line) and not HARMLESS.search(line):
                return True
            level = re.match(r"<(\d+)>", line)
            return (every_warning and level and int(level.group(1)) % 8 <= 4
                    and not ALLOWED_WARNINGS.search(line))
        return [x for x in self.output("dmesg -r").splitlines() if bad(x)]

    def power_off(self):
        """Exit status of the program after `poweroff` (negative: a signal)."""
        self.console.sendline("poweroff")
        return self.wait()

    def wait(self, timeout=None):
        self.expect(pexpect.EOF, timeout)
        self.console.close()
        if self.console.signalstatus is not None:
            return -self.console.signalstatus
        return self.console.exitstatus


def run_plain(arguments, stdin=subprocess.DEVNULL, timeout=TIMEOUT):
    """(status, stdout, stderr) of the program without a terminal; status 'timeout' if it hung."""
    try:
        done = subprocess.run([PROGRAM, *arguments], stdin=stdin, capture_output=True,
                              timeout=timeout)
    except subprocess.TimeoutExpired as error:
        return "timeout", (error.stdout or b"").decode("latin1"), ""
    return done.returncode, done.stdout.decode("latin1"), done.stderr.decode("latin1")
