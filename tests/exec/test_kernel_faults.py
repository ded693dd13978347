"""A guest test kernel boots on `anykvm run --accel kvm` while one call of the preload library into
libc fails: it goes on with the right results, or ends with a message. Nothing crashes, hangs, or
gives a wrong answer.

A sample of the calls; --every: each of them in turn, some minutes. --first N goes on from there,
--only N repeats one, --kernel NAME takes another of tests/guest (default runtime.64).
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from tap import Tap                              # noqa: E402

BUILD = os.environ["ANYKVM_BUILD"]
ANYKVM = os.path.join(BUILD, "anykvm")
LIMIT = 60
SAMPLE = 25


class Kernel:
    def __init__(self, name, vendor, folder):
        self.name, self.report = name, os.path.join(folder, "report")
        self.command = [ANYKVM, "exec", "--cpu", vendor, "--", ANYKVM, "run", "--no-reboot", "--accel",
                        "kvm", "--memory", "64M", "--cpus", "2", "--kernel",
                        os.path.join(BUILD, "tests/guest", name)]
        self.calls, self.good = 0, []

    def boot(self, at=None):
        """(status, output, errors, name of the call that failed); no status: it hung."""
        if os.path.exists(self.report):
            os.unlink(self.report)
        env = {**os.environ, "ANYKVM_EXEC_LIBRARY": os.environ["EXEC_FAULTY"],
               "ANYKVM_FAULT_REPORT": self.report}
        if at:
            env["ANYKVM_FAULT_AT"] = str(at)
        child = subprocess.Popen(self.command, env=env, stdin=subprocess.DEVNULL, text=True,
                                 errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 start_new_session=True)
        try:
            out, err = child.communicate(timeout=LIMIT)
            status = child.returncode
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            status = None
        words = (open(self.report).readline() if os.path.exists(self.report) else "").split()
        self.calls = int(words[0]) if words else 0
        return status, out, err, words[1] if len(words) > 1 else "?"

    def begin(self):
        """Without a fault; the number of calls, or 0."""
        status, out, err, _ = self.boot()
        self.good = re.findall(r"^ok .*", out, re.M)
        return 0 if status or not self.good or re.search(r"^not ok", out, re.M) else self.calls

    def judge(self, at):
        """(whether the guest came through, what is wrong or "")"""
        status, out, err, name = self.boot(at)
        what = "call %d, %s: " % (at, name)
        if status is None:
            return False, what + "no end in %d s" % LIMIT
        # GLib ends a process that cannot have a thread.
        if status == -signal.SIGTRAP and "GLib-ERROR" in err and "creating thread" in err:
            return False, ""
        if status < 0:
            return False, what + signal.Signals(-status).name + " " + err[-300:]
        wrong = re.search(r"^not ok.*", out, re.M)
        if wrong:
            return False, what + wrong.group(0)
        if status and not err.strip():
            return False, what + "status %d without a word" % status
        if not status and re.findall(r"^ok .*", out, re.M) != self.good:
            return False, what + "the report is not whole"
        return not status, ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--kernel", default="runtime.64")
    parser.add_argument("--cpu", default="intel")
    args = parser.parse_args()
    tap = Tap(2)
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(args.kernel, args.cpu, folder)
        calls = kernel.begin()
        tap.case("%s without a fault, %d calls" % (args.kernel, calls), calls > 50)
        step = 1 if args.every else max(1, calls // SAMPLE)
        numbers = [args.only] if args.only else range(args.first, calls + 1, step)
        through, bad, began = 0, [], time.monotonic()
        for at in numbers:
            good, wrong = kernel.judge(at)
            through += good
            if wrong:
                bad.append(wrong)
                Tap.note(wrong)
        Tap.note("%d calls failed in turn in %d s: %d boots came through, %d ended with a message"
                 % (len(numbers), time.monotonic() - began, through, len(numbers) - through - len(bad)))
        tap.case("%s of its calls fails" % ("each" if args.every else "one"), not bad, "\n".join(bad))
    tap.finish()


if __name__ == "__main__":
    main()
