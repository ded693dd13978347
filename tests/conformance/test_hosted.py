"""KVM selftests that want of their host what the machine of the tests need not have, in a guest of
`anykvm run`: nx_huge_pages_test, with huge pages reserved as nx_huge_pages_test.sh does."""

import importlib.machinery
import importlib.util
import os
import shlex
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../lib"))

from tap import Tap                              # noqa: E402
import hosted                                    # noqa: E402

LOADER = importlib.machinery.SourceFileLoader("selftests", HERE + "/selftests")
selftests = importlib.util.module_from_spec(importlib.util.spec_from_loader("selftests", LOADER))
LOADER.exec_module(selftests)

SERIES = "6.12"
NAME = "x86_64/nx_huge_pages_test"
HUGE_PAGES = 3
# The program has to be told whether it may reboot; root may.
USERS = {"root": True, "nobody": False}


def command(cpu, user):
    options, own = selftests.arguments(reboot=USERS[user])[NAME]
    line = shlex.join(selftests.launcher("/t/anykvm", cpu) + options + ["--", "/t/nx_huge_pages_test"] + own)
    return "su -s /bin/sh -c %s %s; echo %s %s = $?" % (shlex.quote(line), user, cpu, user)


def main():
    program = os.path.join(selftests.programs(os.path.dirname(hosted.GUEST) + "/selftests"), NAME)
    why = hosted.missing(SERIES)
    if not why and not os.path.exists(program):
        why = "tests/conformance/selftests has not been run"
    if why:
        print("1..0 # SKIP " + why)
        return
    runs = [(cpu, user) for cpu in ("amd", "intel") for user in USERS]
    tap = Tap(len(runs))
    script = ["echo %d >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages" % HUGE_PAGES]
    text, errors = hosted.run(SERIES, [program], "\n".join(script + [command(*r) for r in runs]),
                              ["--memory", "1G", "--timeout", "240"])
    for cpu, user in runs:
        tap.case("%s --cpu %s, as %s" % (NAME, cpu, user), "%s %s = 0\n" % (cpu, user) in text,
                 text + errors)
    tap.finish()


if __name__ == "__main__":
    main()
