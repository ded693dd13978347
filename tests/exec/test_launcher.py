"""`anykvm exec`: what it refuses, and a program of ours that uses /dev/kvm in every way."""

import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../lib"))

from tap import Tap                              # noqa: E402

ANYKVM = os.path.join(os.environ["ANYKVM_BUILD"], "anykvm")
CLIENT = os.environ["EXEC_CLIENT"]


def run(*args, **env):
    return subprocess.run([ANYKVM, "exec", *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, env={**os.environ, **env})


def refused(tap, name, done, status, words):
    tap.case(name, done.returncode == status and words in done.stderr,
             "status %d: %s" % (done.returncode, done.stderr))


# What is written reads back, in a shell and in its children; what makes no sense or is read-only does not.
PARAMETERS = """
P=/sys/module/kvm/parameters
cat $P/nx_huge_pages $P/nx_huge_pages_recovery_ratio $P/eager_page_split
echo 7 > $P/nx_huge_pages_recovery_ratio; printf 9 | tee -a $P/nx_huge_pages_recovery_period_ms >/dev/null
echo off >$P/eager_page_split; echo xyz >$P/nx_huge_pages
cat $P/nx_huge_pages $P/nx_huge_pages_recovery_ratio $P/nx_huge_pages_recovery_period_ms $P/eager_page_split
(echo N >$P/tdp_mmu) 2>/dev/null; cat $P/tdp_mmu; stat -c %a $P/tdp_mmu $P/eager_page_split
"""


def parameters(tap):
    done = run("--follow", "--parameter", "nx_huge_pages=1", "--", "sh", "-c", PARAMETERS)
    tap.case("--parameter, --follow", done.stdout.split() ==
             "Y 60 Y Y 7 9 N Y 444 644".split(), done.stdout + done.stderr)
    refused(tap, "--parameter of an unknown one", run("--parameter", "ignore_msrs=Y", "true"), 2,
            "one of nx_huge_pages, ")
    refused(tap, "--parameter without a value", run("--parameter", "nx_huge_pages", "true"), 2,
            "NAME=VALUE")


def main():
    cases = subprocess.run([CLIENT, "list"], capture_output=True, text=True).stdout.split()
    by_hand = [x for x in cases if x != "guard"]        # which finds itself unguarded by hand
    tap = Tap(2 * len(cases) + len(by_hand) + 20)
    for vendor in ("amd", "intel"):
        for case in cases:
            done = run("--cpu", vendor, "--", CLIENT, case)
            tap.case("%s, %s" % (case, vendor), done.returncode == 0, done.stdout + done.stderr)
    for case in by_hand:
        done = run("--raw", "--", CLIENT, case, EXPECT_RAW="1")
        tap.case("%s, --raw" % case, done.returncode == 0, done.stdout + done.stderr)
    done = run("--follow", "--", CLIENT, "child", EXPECT_FOLLOW="1")
    tap.case("--follow", done.returncode == 0, done.stdout + done.stderr)
    done = run("--host-cpuid", "--cpu", "intel", "--", CLIENT, "host-cpuid")
    tap.case("--host-cpuid", done.returncode == 0, done.stdout + done.stderr)
    refused(tap, "no program", run(), 2, "no program given")
    parameters(tap)
    refused(tap, "unknown program", run("--", "no-such-program"), 127, "no such program")
    refused(tap, "unknown vendor", run("--cpu", "via", CLIENT), 2, "intel or amd")
    refused(tap, "unknown model", run("--cpu", "amd/Haswell", CLIENT), 2, "the models are EPYC, ")
    for model in ("intel/Nehalem", "intel/Haswell", "intel/Skylake-Client", "amd/epyc-rome"):
        done = run("--cpu", model, "--", CLIENT, "cpuid")
        tap.case("--cpu " + model, done.returncode == 0, done.stdout + done.stderr)
    refused(tap, "no ELF file", run("--", "/etc/passwd"), 127, "no such program")
    with tempfile.TemporaryDirectory() as folder:
        static = os.path.join(folder, "static")
        source = os.path.join(folder, "static.c")
        open(source, "w").write("int main(void) { return 0; }\n")
        if subprocess.run(["cc", "-static", source, "-o", static], capture_output=True).returncode:
            tap.skip("static program", "no static libc here")
        else:
            refused(tap, "static program", run("--", static), 126, "statically linked")
        log = os.path.join(folder, "log")
        done = run("--trace", "--stats", "--log", log, "--", CLIENT, "run")
        text = open(log).read() if os.path.exists(log) else ""
        tap.case("--trace", "kvm_pio: vcpu 0 pio_write at 0x10 size 1 count 1" in text and
                 "KVM_CREATE_VM" in text, text)
        some = run("--trace=kvm_pio,kvm_exit", "--", CLIENT, "run").stderr.splitlines()
        tap.case("--trace of two points", len(some) == 3 and "kvm_exit: vcpu 0 reason io" in some[0] and
                 "kvm_pio: " in some[1] and "kvm_exit: vcpu 0 reason hlt" in some[2], some)
        refused(tap, "--trace of an unknown point", run("--trace=kvm_foo", "--", CLIENT, "run"), 2,
                "there are ioctl, kvm_entry")
        tap.case("--stats", "exits with reason 2" in text, text)
        tap.case("--log leaves the program's output alone", not done.stderr, done.stderr)
    tap.finish()


if __name__ == "__main__":
    main()
