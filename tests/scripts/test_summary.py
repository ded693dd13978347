"""scripts/test-summary counts cases, and misses neither crashes nor broken plans."""

import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from tap import Tap    # noqa: E402

SUMMARY = os.path.join(HERE, "..", "..", "scripts", "test-summary")

CASES = [
    # what, entries of the log, last line, status
    ("tap points", [("OK", "1..3\nok 1 - a\nok 2 - b # SKIP no\nok 3 c\n")],
     "2 passed, 0 failed, 1 skipped", 0),
    ("a failed point", [("FAIL", "1..2\nok 1 - a\nnot ok 2 - b\n")],
     "1 passed, 1 failed, 0 skipped", 1),
    ("a plan that is not met", [("ERROR", "1..4\nok 1 - a\n")],
     "1 passed, 1 failed, 0 skipped", 1),
    ("a crash after the last point", [("ERROR", "1..1\nok 1 - a\n")],
     "1 passed, 1 failed, 0 skipped", 1),
    ("a crash before the first", [("ERROR", "")], "0 passed, 1 failed, 0 skipped", 1),
    ("a skipped program", [("OK", "1..0 # SKIP nothing here\n"), ("OK", "1..1\nok 1\n")],
     "1 passed, 0 failed, 1 skipped", 0),
    ("a program without TAP", [("OK", "hello\n"), ("FAIL", "hello\n"), ("SKIP", "")],
     "1 passed, 1 failed, 1 skipped", 1),
    ("a time-out", [("TIMEOUT", "1..2\nok 1 - a\n")], "1 passed, 1 failed, 0 skipped", 1),
    ("no test at all", [], "0 passed, 0 failed, 0 skipped", 1),
    ("names that look like directives", [("OK", "1..1\nok 1 - skip the skipped\n")],
     "1 passed, 0 failed, 0 skipped", 0),
]


def main():
    tap = Tap(len(CASES) + 1)
    for name, entries, want, status in CASES:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as log:
            for result, stdout in entries:
                log.write(json.dumps({"name": "t", "result": result, "stdout": stdout}) + "\n")
            log.flush()
            done = subprocess.run([sys.executable, SUMMARY, log.name], capture_output=True,
                                  text=True)
        last = (done.stdout.splitlines() or [""])[-1]
        tap.case(name, (last, done.returncode) == (want, status),
                 "got %r, status %d; %s" % (last, done.returncode, done.stderr))
    done = subprocess.run([sys.executable, SUMMARY, "/nonexistent"], capture_output=True, text=True)
    tap.case("a log that is not there fails", done.returncode == 1)
    tap.finish()


main()
