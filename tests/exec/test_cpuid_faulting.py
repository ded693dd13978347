"""CPUID faulting: `anykvm exec` in a guest of `anykvm run`, whose processor offers it to Linux."""

import os
import re
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../lib"))

from tap import Tap                              # noqa: E402
import hosted                                    # noqa: E402

CASES = "cpuid generated-cpuid run fork handler mask segv".split()


def main():
    why = hosted.missing("6.1")
    if why:
        print("1..0 # SKIP " + why)
        return
    tap = Tap(1 + 2 * len(CASES))
    script = "grep -c cpuid_fault /proc/cpuinfo; for v in amd intel; do for c in %s; do " \
             "/t/anykvm exec --cpu $v -- /t/exec-client $c; echo $v $c = $?; done; done" % " ".join(CASES)
    text, errors = hosted.run("6.1", [os.environ["EXEC_CLIENT"]], script,
                              ["--cpu", "intel", "--memory", "1G", "--timeout", "240"])
    tap.case("the guest's processor has it", re.search(r"^[1-9]", text, re.M), text + errors)
    for vendor in ("amd", "intel"):
        for case in CASES:
            tap.case("%s, %s" % (case, vendor), "%s %s = 0\n" % (vendor, case) in text,
                     text + errors)
    tap.finish()


if __name__ == "__main__":
    main()
