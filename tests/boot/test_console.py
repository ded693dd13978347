"""The terminal: keys, reboot, and its state after every way to end."""

import os
import re
import shlex
import signal
import time

import pexpect

from guest import PROGRAM, PROMPT, TIMEOUT, Guest, GuestError, kernel_options
from cases import check, check_equal, run_cases


def shell_and_poweroff():
    with Guest(["--cpus", "2"]) as guest:
        guest.boot()
        check_equal(guest.output("echo $((6 * 7))"), "42", "output of the shell")
        check_equal(guest.run("false")[0], 1, "status of false")
        check_equal(guest.power_off(), 0, "status after poweroff")


def poweroff_from_a_script():
    with Guest() as guest:
        guest.boot()
        guest.console.sendline("sh -c 'sleep 1; exec /sbin/poweroff' &")
        check_equal(guest.wait(), 0, "status")


def reboot():
    with Guest(["--cpus", "2"]) as guest:
        guest.boot()
        guest.output("touch /tmp/before")
        guest.console.sendline("reboot")
        guest.expect(PROMPT)
        guest.console.sendline("ls /tmp/before; echo up=$(cut -d. -f1 /proc/uptime)=")
        guest.expect("No such file")
        up = int(guest.expect(r"up=(\d+)=").group(1))
        check(up < TIMEOUT, "the clock went on: %d s" % up)
        guest.expect(PROMPT)
        check_equal(guest.power_off(), 0, "status after reboot and poweroff")


def no_reboot():
    with Guest(["--no-reboot"]) as guest:
        guest.boot()
        guest.console.sendline("reboot")
        check_equal(guest.wait(), 0, "status of a reboot that ends the guest")


def all_characters():
    """Everything typed arrives: a long line, no byte lost."""
    with Guest() as guest:
        guest.boot()
        text = "".join(chr(97 + i % 26) for i in range(2000))
        check_equal(guest.output("echo %s | wc -c" % text), "2001", "characters of a long line")
        check_equal(guest.output("echo %s" % text), text, "the line itself")


def much_output():
    with Guest() as guest:
        guest.boot()
        lines = guest.output("seq 1 5000").split()
        check_equal(lines, [str(i) for i in range(1, 5001)], "the lines of seq")


def control_c():
    with Guest() as guest:
        guest.boot()
        guest.console.sendline("sh -c 'trap \"echo caught; exit 7\" INT; echo ready; sleep 100'")
        guest.expect("ready")
        time.sleep(0.5)
        guest.console.send("\x03")
        guest.expect("caught")


def help_key():
    with Guest() as guest:
        guest.boot()
        guest.console.send("\x01h")
        guest.expect(r"(?i)ctrl-a\s+x|C-a x")
        guest.console.send("\x01x")
        guest.wait(10)


def monitor_key():
    with Guest(["--cpus", "2", "--memory", "512M"]) as guest:
        guest.boot()
        guest.console.send("\x01c")
        guest.console.send("info status\r")
        guest.expect("running on .*, 2 vCPUs, 512 MiB")
        guest.console.send("info registers 1\r")
        guest.expect(r"vCPU 1[\s\S]*efer [0-9a-f]+")
        guest.console.send("stop\rinfo status\r")
        guest.expect("stopped on ")
        guest.console.send("xp/4xw 0x100000\r")
        guest.expect(r"0000000000100000: [0-9a-f]{8}")
        guest.console.send("nonsense\r")
        guest.expect("unknown command 'nonsense'")
        guest.console.send("cont\r")
        guest.expect(r"cont\r+\n")
        guest.console.send("\x01c")
        check_equal(guest.output("echo $((6 * 7))").split()[-1], "42", "the shell afterwards")
        guest.console.send("\x01csystem_powerdown\r\x01c")
        guest.console.send("\x01\x01")          # Ctrl-A itself reaches the guest
        guest.console.send("\x01csystem_reset\r")
        guest.expect(PROMPT)
        guest.console.send("\x01x")
        check_equal(guest.wait(10), 0, "status of Ctrl-A x")


def ended_with(action, want):
    """Run under a shell that prints the terminal's settings before and after."""
    command = " ".join(shlex.quote(x) for x in [PROGRAM, "run", *kernel_options()])
    # A moment for the process that restores the terminal of a program that was killed.
    child = pexpect.spawn("/bin/sh", ["-c", "echo before=$(stty -g)=; %s; s=$?; sleep 1; "
                                      "echo; echo after=$(stty -g)= status=$s=" % command],
                          timeout=TIMEOUT, encoding="latin1", dimensions=(24, 200))
    try:
        child.expect(r"before=(\S+)=")
        before = child.match.group(1)
        child.expect(PROMPT)
        action(child)
        child.expect(r"after=(\S+)= status=(\d+)=", timeout=15)
        check_equal(child.match.group(1), before, "settings of the terminal")
        status = int(child.match.group(2))
        check(want(status), "status %d" % status)
    except (pexpect.TIMEOUT, pexpect.EOF):
        raise GuestError("no end: " + repr((child.before or "")[-300:])) from None
    finally:
        child.close(force=True)


def program_pids(child):
    """The process of the program: the child of the shell that we started."""
    pids = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as stat:
                    fields = re.sub(r"\(.*\)", "x", stat.read()).split()
            except OSError:
                continue
            if int(fields[3]) == child.pid:
                pids.append(int(name))
    return pids


def send(number):
    def action(child):
        for pid in program_pids(child):
            os.kill(pid, number)
    return action


def main():
    quit_key = ("Ctrl-A x", lambda c: c.send("\x01x"), lambda s: s < 128)
    ends = [quit_key] + [
        (signal.Signals(n).name, send(n), lambda s: s != 0)
        for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV,
                  signal.SIGABRT, signal.SIGBUS, signal.SIGKILL)]
    cases = [
        ("a shell, and poweroff ends with status 0", shell_and_poweroff),
        ("poweroff by another process", poweroff_from_a_script),
        ("reboot comes back to a shell", reboot),
        ("--no-reboot ends", no_reboot),
        ("a long line arrives whole", all_characters),
        ("much output arrives whole", much_output),
        ("Ctrl-C reaches the guest", control_c),
        ("Ctrl-A h shows the keys", help_key),
        ("Ctrl-A c is the monitor", monitor_key),
    ]
    cases += [("the terminal is restored after " + name,
               lambda a=action, w=want: ended_with(a, w)) for name, action, want in ends]
    run_cases(cases)


main()
