"""`anykvm test` with a table of its own: how tests end, where reports go, what is refused."""

import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

from tap import Tap    # noqa: E402
from tiny import CRASH, HANG, elf, end, say    # noqa: E402

ANYKVM = os.path.join(os.environ["ANYKVM_BUILD"], "anykvm")
LIMIT = 60     # seconds

KERNELS = {
    "good": say("ok 1 - point\n1..1\n") + end(0),
    "bad": say("not ok 1 - point\n1..1\n") + end(1),
    "hang": say("ok 1 - point\n") + HANG,
    "crash": say("ok 1 - point\n") + CRASH,
    "late": say("ok 1 - point\n1..1\n") + CRASH,
    "early": say("ok 1 - point\n") + end(0),
}


class Bench:
    def __init__(self, folder):
        self.folder = folder
        with open(folder + "/tests.cfg", "w") as table:
            for name, code in KERNELS.items():
                table.write("[%s]\narch=64\ntimeout=2\n" % name)
                with open("%s/%s.64" % (folder, name), "wb") as out:
                    out.write(elf(code))

    def run(self, *args, **more):
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.run([ANYKVM, "test", "--dir", self.folder, *args], text=True,
                              stdin=subprocess.DEVNULL, timeout=LIMIT, **more)


def ends(tap, bench, target):
    for name, status, words in (
            ("good", 0, "1 passed, 0 failed"),
            ("bad", 1, "failed: point"),
            ("hang", 1, "failed: (ended by its time limit)"),
            ("crash", 1, "failed: (the machine shut down before the test's end)"),
            ("late", 1, "failed: (the machine shut down)"),
            ("early", 1, "failed: (ended with status 0 before the test's end)")):
        done = bench.run("--target", target, name)
        tap.case("%s, %s" % (name, target), done.returncode == status and words in done.stdout,
                 done.stdout + done.stderr)


def refused(tap, name, done, words, status=2):
    """One line, and no test has run."""
    tap.case(name, done.returncode == status and words in done.stderr and not done.stdout and
             len(done.stderr.splitlines()) == 1, "status %d: %s%s" %
             (done.returncode, done.stdout, done.stderr))


def kvm():
    return os.path.exists("/dev/kvm") and os.access("/dev/kvm", os.R_OK | os.W_OK)


def main():
    tap = Tap(2 * 6 + 14)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        ends(tap, bench, "anykvm")
        if kvm():
            ends(tap, bench, "kvm")
        else:
            for name in KERNELS:
                tap.skip(name + ", kvm", "no /dev/kvm here")

        # Whether or not there is a KVM.
        with open("/proc/cpuinfo") as info:
            other = "amd" if "GenuineIntel" in info.read() else "intel"
        for target in ("kvm", "qemu-kvm"):
            refused(tap, "--target %s with the other vendor" % target,
                    bench.run("--target", target, "--cpu", other, "good"),
                    "--cpu %s needs anykvm's processor; a real KVM shows the host's vendor" % other)

        for option in ("--tap", "--junit"):
            refused(tap, option + " in no folder", bench.run(option, folder + "/no/file", "good"),
                    "cannot write '%s/no/file': No such file or directory" % folder)
        refused(tap, "--logs where no folder can be", bench.run("--logs", "/proc/no", "good"),
                "cannot make the folder '/proc/no': No such file or directory; --logs names another")
        os.mkdir(folder + "/full")
        os.mkdir(folder + "/full/good.64.log")
        refused(tap, "a log that cannot be written", bench.run("--logs", folder + "/full", "good"),
                "good.64.log': Is a directory; --logs names another folder")
        done = bench.run("--tap", "/dev/full", "good")
        tap.case("a report on a full disk", done.returncode == 2 and "1 passed, " in done.stdout and
                 "cannot write '/dev/full': No space left" in done.stderr, done.stdout + done.stderr)
        report, units = folder + "/tap", folder + "/xml"
        done = bench.run("--tap", report, "--junit", units, "good", "bad")
        tap.case("both reports, two patterns", done.returncode == 1 and
                 "1 passed, 1 failed" in done.stdout and
                 open(report).read().splitlines()[-1] == "1..2" and
                 open(units).read().count("<testcase") == 2, done.stdout + done.stderr)
        done = bench.run("--tap", "-", "good")
        tap.case("--tap -", done.stdout == "ok 1 - good.64: point\n1..1\n" and
                 "1 passed, " in done.stderr, done.stdout + done.stderr)

        refused(tap, "a pattern that nothing matches", bench.run("nosuch"),
                "no test on anykvm matches 'nosuch'; --list names them")
        refused(tap, "patterns that nothing matches", bench.run("no", "such"),
                "matches 'no', 'such'; --list")
        refused(tap, "a number of CPUs that no test has", bench.run("--cpus", "3"),
                "no such test on anykvm; --list")
        refused(tap, "no table", bench.run("--dir", folder + "/full"),
                "tests.cfg': No such file or directory; 'make' builds the tests, --dir or "
                "$ANYKVM_TESTS names another folder")
        with open(folder + "/full/tests.cfg", "w") as table:
            table.write("nonsense\n")
        done = bench.run("--dir", folder + "/full")
        tap.case("a broken table", done.returncode == 2 and "full/tests.cfg': " in done.stderr and
                 "make" not in done.stderr, done.stderr)
    tap.finish()


if __name__ == "__main__":
    main()
