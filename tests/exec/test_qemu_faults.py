"""QEMU boots Linux while one call of the preload library into libc fails: it goes on or ends with a
message of its own, but nothing crashes or hangs.

A sample of the calls; --full: each of them.
"""

import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import LIMIT, Qemu, Tap, main          # noqa: E402

SAMPLE = 12


def boot(number):
    """The guest ends itself. (calls, name of what failed)"""
    with Qemu("-no-reboot", "-cpu", "host", "-smp", "2", machine="q35", linux="6.1", monitor=False,
              append="anykvm.cmd=1 panic=-1", environment={
                  "ANYKVM_EXEC_LIBRARY": os.environ["EXEC_FAULTY"],
                  "ANYKVM_FAULT_AT": str(number), "ANYKVM_FAULT_REPORT": "report"}) as q:
        try:
            q.child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            q.fail("call %d: no end in time" % number)
        status = q.child.returncode
        # QEMU itself aborts where it thinks that KVM cannot fail.
        if status < 0 and not (status == -signal.SIGABRT and "qemu" in q.errors()):
            q.fail("call %d: %s" % (number, signal.Signals(-status).name))
        if status and not q.errors().strip():
            q.fail("call %d: status %d without a word" % (number, status))
        with open(q.dir + "/report") as report:
            words = report.read().split() or (0, "?")      # it was aborted
        return int(words[0]), words[1], status


def each():
    calls, _, status = boot(0)
    assert calls > 20 and not status, "%d calls, status %d" % (calls, status)
    numbers = range(1, calls + 1)
    if "--full" not in sys.argv:
        numbers = sorted({1 + i * calls // SAMPLE for i in range(SAMPLE)})
    ends = [boot(n)[2] for n in numbers]
    Tap.note("%d calls in a boot, %d failed in turn: %d boots came through" %
             (calls, len(ends), ends.count(0)))


if __name__ == "__main__":
    main([("one call of the library fails", each)])
