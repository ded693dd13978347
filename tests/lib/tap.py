"""The few lines of TAP that Python tests need."""

import sys


class Tap:
    """Prints the plan, then one line a case; `finish()` is the process's exit status."""

    def __init__(self, plan):
        self.number = self.failed = 0
        print("1..%d" % plan, flush=True)

    def case(self, name, good, why=None):
        self.number += 1
        self.failed += not good
        print("%sok %d - %s" % ("" if good else "not ", self.number, name), flush=True)
        if not good and why:
            self.note(why)
        return good

    def skip(self, name, why):
        self.number += 1
        print("ok %d - %s # SKIP %s" % (self.number, name, why), flush=True)

    @staticmethod
    def note(text):
        for line in str(text).splitlines():
            print("# " + line, flush=True)

    def finish(self):
        sys.exit(1 if self.failed else 0)
