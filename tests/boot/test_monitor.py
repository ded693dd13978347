"""The monitor on a terminal: what it answers, and what it does not take for an answer."""

import os
import re
import sys
import tempfile

import pexpect

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

from tap import Tap                  # noqa: E402
from tiny import HANG, elf, say    # noqa: E402

ANYKVM = os.path.join(os.environ["ANYKVM_BUILD"], "anykvm")
PROMPT = "(anykvm) "
SURPLUS = "'%s' is too much; 'help' shows what is wanted"

CASES = [
    # command, what it answers, whole
    ("info status", "running on anykvm, 1 vCPU, 64 MiB"),
    ("info status now", SURPLUS % "now"),
    ("info cpus 0", SURPLUS % "0"),
    ("info pci 0", SURPLUS % "0"),
    ("info lapic 0 5", SURPLUS % "5"),
    ("info registers 0 5 6 7", SURPLUS % "5"),
    ("info registers 1", "there is no vCPU 1"),
    ("info registers -1", "there is no vCPU -1"),
    ("info registers first", "there is no vCPU first"),
    ("xp/2xb 0x1000000", "0000000001000000: be 16"),
    ("xp /2xb 0x1000000", "0000000001000000: be 16"),
    ("xp/2xb 0x1000000 7", SURPLUS % "7"),
    ("xp /2xb 0x1000000 7", SURPLUS % "7"),
    ("xp", "x/[COUNT][x|c][b|h|w|g] ADDRESS"),
    ("system_reset now", SURPLUS % "now"),
    ("quit 1", SURPLUS % "1"),
    ("info status", "running on anykvm, 1 vCPU, 64 MiB"),
]


def main():
    tap = Tap(len(CASES) + 3)
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/hang", "wb") as out:
            out.write(elf(say("ready\n") + HANG))
        run = pexpect.spawn(ANYKVM, ["run", "--memory", "64M", "--timeout", "60", "--kernel",
                                     folder + "/hang"], timeout=30, encoding="latin1",
                            dimensions=(24, 200))
        run.delaybeforesend = 0.05

        def ask(command):
            run.sendline(command)
            run.expect_exact(command)
            run.expect_exact(PROMPT)
            return re.sub(r"\r+", "", run.before).strip("\n")
        run.expect("ready")
        run.send("\x01c")
        run.expect_exact(PROMPT)
        for command, want in CASES:
            got = ask(command)
            tap.case(command, got == want, repr(got))
        got = ask("info lapic 0")
        tap.case("info lapic 0", "svr " in got, repr(got))
        lines = ask("help").splitlines()
        tap.case("help's columns", len(lines) == 9 and
                 all(len(x) < 80 and x[17] == " " != x[18] for x in lines),
                 "\n".join(lines))
        run.sendline("quit")
        run.expect(pexpect.EOF)
        run.close()
        tap.case("quit", run.exitstatus == 0, run.exitstatus)
    tap.finish()


main()
