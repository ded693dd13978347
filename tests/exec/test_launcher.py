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
    for wish, words in (("nx_huge_pages=banana", "VALUE is one of Y, N, "),
                        ("eager_page_split=never", "VALUE is one of Y, N, "),
                        ("nx_huge_pages_recovery_ratio=-1", "VALUE is a number from 0 to 4294967295"),
                        ("nx_huge_pages_recovery_period_ms=4294967296", "from 0 to 4294967295"),
                        ("nx_huge_pages_recovery_ratio=7x", "from 0 to 4294967295")):
        refused(tap, "--parameter " + wish, run("--parameter", wish, "true"), 2, words)
    done = run("--parameter", "nx_huge_pages=force", "--parameter", "nx_huge_pages_recovery_ratio=0x10",
               "--", "cat", "/sys/module/kvm/parameters/nx_huge_pages",
               "/sys/module/kvm/parameters/nx_huge_pages_recovery_ratio")
    tap.case("--parameter, the kernel's other spellings", done.stdout.split() == ["Y", "16"],
             done.stdout + done.stderr)


def file(folder, name, text, mode):
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.write(text)
    os.chmod(path, mode)
    return path


def programs(tap, folder):
    """What is there and cannot be run is another error than what is not there."""
    refused(tap, "unknown program", run("--", "no-such-program"), 127,
            "no-such-program: no such program")
    refused(tap, "unknown path", run("--", folder + "/none"), 127, "/none: no such program")
    refused(tap, "no executable file", run("--", "/etc/passwd"), 126,
            "/etc/passwd: not an executable file")
    refused(tap, "a folder", run("--", "/etc"), 126, "/etc: Is a directory")
    refused(tap, "a path through a file", run("--", "/etc/passwd/x"), 126, "Not a directory")
    refused(tap, "a file that nobody may use", run("--", file(folder, "locked", "", 0)), 126,
            "locked: not an executable file")
    refused(tap, "no executable file in PATH", run("--", "locked", PATH=folder), 126,
            folder + "/locked: not an executable file")
    refused(tap, "an executable text", run("--", file(folder, "text", "hello\n", 0o755)), 126,
            "text is no program")


def scripts(tap, folder):
    """A script's program is one that the script turns into."""
    note = "w.sh is a script: what it starts"
    script = file(folder, "w.sh", '#!/bin/sh\nexec "$@"\n', 0o755)
    done = run("--", script, CLIENT, "run")
    tap.case("a wrapper script without --follow", done.returncode != 0 and
             done.stderr.count(note) == 1 and "--follow" in done.stderr, done.stderr)
    done = run("--follow", "--", script, CLIENT, "run")
    tap.case("a wrapper script with --follow", done.returncode == 0 and not done.stderr, done.stderr)
    log = os.path.join(folder, "script.log")
    done = run("--log", log, "--", script, "true")
    tap.case("its note is in the log", not done.stderr and os.path.exists(log) and
             note in open(log).read(), done.stderr)


def logs(tap, folder):
    refused(tap, "--log in no folder", run("--log", "/nonexist/x", "--", "true"), 2,
            "cannot write the log '/nonexist/x': No such file or directory")
    refused(tap, "--log that is a folder", run("--log", folder, "--", "true"), 2,
            "Is a directory")
    done = subprocess.run([ANYKVM, "exec", "--follow", "--stats", "--log", "here", "--", "sh", "-c",
                           'cd / && "$0" run', CLIENT], cwd=folder, capture_output=True, timeout=60)
    text = open(folder + "/here").read() if os.path.exists(folder + "/here") else ""
    tap.case("--log's name is as the launcher sees it", done.returncode == 0 and
             "exits with reason 2" in text, str(done.stderr) + text)


def usage(tap):
    done = run("--help")
    tap.case("--help", done.returncode == 0 and "anykvm exec [OPTION" in done.stdout and
             "Exit status: " in done.stdout and "--follow" in done.stdout.split("Options:")[0] and
             all(x[:1] != " " or len(x) < 120 for x in done.stdout.splitlines()), done.stdout)


def main():
    cases = subprocess.run([CLIENT, "list"], capture_output=True, text=True).stdout.split()
    by_hand = [x for x in cases if x != "guard"]        # which finds itself unguarded by hand
    tap = Tap(2 * len(cases) + len(by_hand) + 39)
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
    usage(tap)
    refused(tap, "unknown vendor", run("--cpu", "via", CLIENT), 2, "intel or amd")
    refused(tap, "unknown model", run("--cpu", "amd/Haswell", CLIENT), 2, "the models are EPYC, ")
    for model in ("intel/Nehalem", "intel/Haswell", "intel/Skylake-Client", "amd/epyc-rome"):
        done = run("--cpu", model, "--", CLIENT, "cpuid")
        tap.case("--cpu " + model, done.returncode == 0, done.stdout + done.stderr)
    with tempfile.TemporaryDirectory() as folder:
        programs(tap, folder)
        scripts(tap, folder)
        logs(tap, folder)
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
