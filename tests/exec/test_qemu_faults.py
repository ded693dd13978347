"""QEMU boots Linux while one call of the preload library into libc fails: it goes on or ends with a
message of its own, but nothing crashes or hangs.

A sample of the calls; --full: every place that calls, several times.
"""

import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import LIMIT, Failure, Qemu, Tap, main # noqa: E402

SAMPLE = 12


def boot(**which):
    """The guest ends itself. (calls, places as (distance, number of calls, name), status)"""
    what = " ".join("%s %s" % x for x in which.items()) or "no call"
    with Qemu("-no-reboot", "-cpu", "host", "-smp", "2", machine="q35", linux="6.1", monitor=False,
              append="anykvm.cmd=1 panic=-1", environment={
                  "ANYKVM_EXEC_LIBRARY": os.environ["EXEC_FAULTY"], "ANYKVM_FAULT_REPORT": "report",
                  **{"ANYKVM_FAULT_" + k.upper(): str(v) for k, v in which.items()}}) as q:
        try:
            q.child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            q.fail("%s: no end in time" % what)
        status = q.child.returncode
        # QEMU itself aborts where it thinks that KVM cannot fail.
        if status < 0 and not (status == -signal.SIGABRT and "qemu" in q.errors()):
            q.fail("%s: %s" % (what, signal.Signals(-status).name))
        if status and not q.errors().strip():
            q.fail("%s: status %d without a word" % (what, status))
        with open(q.dir + "/report") as report:
            lines = [line.split() for line in report] or [(0, "?")]      # it was aborted
        return int(lines[0][0]), [(int(a), int(n), name) for a, n, name in lines[1:]], status


def sample():
    calls, _, status = boot()
    assert calls > 20 and not status, "%d calls, status %d" % (calls, status)
    numbers = sorted({1 + i * calls // SAMPLE for i in range(SAMPLE)})
    ends = [boot(at=n)[2] for n in numbers]
    Tap.note("%d calls in a boot, %d failed in turn: %d boots came through" %
             (calls, len(ends), ends.count(0)))


def each_place():
    """Each place fails at its first, second and its middle call: thousands of calls come from few."""
    _, places, _ = boot()
    faults, failed = [], []
    for distance, count, name in places:
        faults += [(distance, hit, name) for hit in sorted({1, 2, 1 + count // 2}) if hit <= count]
    ends = []
    for distance, hit, name in faults:
        try:
            ends.append(boot(place="%d:%d" % (distance, hit))[2])
        except Failure as error:
            failed.append("%s, call %d from %d: %s" % (name, hit, distance, error))
    Tap.note("%d places, %d calls of them failed in turn: %d boots came through" %
             (len(places), len(faults), ends.count(0)))
    if failed:
        raise Failure("\n".join(failed))


if __name__ == "__main__":
    main([("one call of the library fails", sample)],
         full=[("every place that calls fails, at several of its calls", each_place)])
