"""`anykvm run -- COMMAND`: output, exit status, arguments, time-out."""

import subprocess
import tempfile
import time

from guest import PROGRAM, kernel_options, run_plain
from cases import check, check_equal, run_cases


def command(*words, options=()):
    return run_plain(["run", *kernel_options(), *options, "--", *words])


def status_of(words, want):
    status, out, err = command(*words)
    check_equal(status, want, "status (stdout %r, stderr %r)" % (out[-200:], err[-200:]))


def output_of(words, want):
    status, out, err = command(*words)
    check_equal((status, out), (0, want), "status and output (stderr %r)" % err[-200:])


def default_guest():
    status, out, err = run_plain(["run", "--", "uname", "-r"])
    check_equal(status, 0, "status (stderr %r)" % err[-200:])
    check(out.startswith("6.1."), "the default guest is %r" % out)


def with_options():
    status, out, _ = command("sh", "-c", "nproc; cat /proc/cmdline",
                             options=["--cpus", "2", "--memory", "512M", "--append", "mark=17"])
    check_equal(status, 0, "status")
    check_equal(out.splitlines()[0], "2", "CPUs")
    check(" mark=17" in out, "the command line lacks --append's text: %r" % out)


def time_out():
    start = time.monotonic()
    status, _, err = command("sleep", "100", options=["--timeout", "8"])
    took = time.monotonic() - start
    check_equal(status, 124, "status")
    check(len(err.strip().splitlines()) == 1, "no single line of explanation: %r" % err)
    check(7 < took < 20, "it took %.1f s" % took)


def guest_ends_first():
    status, _, _ = command("poweroff", "-f")
    check(status != 0, "status 0 although the command gave no status")


def much_output():
    status, out, _ = command("seq", "1", "20000")
    check_equal(status, 0, "status")
    check_equal(out.split(), [str(i) for i in range(1, 20001)], "output")


def given(text, want):
    """Standard input of a command that reads all of it."""
    with tempfile.TemporaryFile() as source:
        source.write(text)
        source.seek(0)
        status, out, err = run_plain(["run", *kernel_options(), "--", "cat"], stdin=source)
    check_equal((status, out), (0, want), "status and output (stderr %r)" % err[-200:])


def full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run([PROGRAM, "run", *kernel_options(), "--", "echo", "lost"], stdout=full,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=100)
    check_equal(done.returncode, 1, "status")
    check(b"No space left on device" in done.stderr, "no word of it: %r" % done.stderr)


def main():
    run_cases([
        ("true", lambda: status_of(["true"], 0)),
        ("false", lambda: status_of(["false"], 1)),
        ("exit 42", lambda: status_of(["sh", "-c", "exit 42"], 42)),
        ("exit 255", lambda: status_of(["sh", "-c", "exit 255"], 255)),
        ("killed by a signal", lambda: status_of(["sh", "-c", "kill -9 $$"], 137)),
        ("a command that is not there", lambda: status_of(["no-such-command"], 127)),
        ("output is the command's alone", lambda: output_of(["echo", "hello"], "hello\n")),
        ("arguments arrive as they are", lambda: output_of(
            ["printf", "<%s>\\n", "a b", "'\"$x`", "*", ""], "<a b>\n<'\"$x`>\n<*>\n<>\n")),
        ("options before the command", with_options),
        ("the default guest", default_guest),
        ("much output", much_output),
        ("input", lambda: given(b"one\ntwo\n", "one\ntwo\n")),
        ("input without a last newline", lambda: given(b"one\ntwo", "one\ntwo")),
        ("input that is empty", lambda: given(b"", "")),
        ("output that cannot be written", full_disk),
        ("--timeout", time_out),
        ("the guest ends before the command", guest_ends_first),
    ])


main()
