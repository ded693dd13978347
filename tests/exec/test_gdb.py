"""QEMU's gdb stub under `anykvm exec`: breakpoints, watchpoints, steps, on a program and on Linux."""

import os
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "lib"))

from gdb import ACCESS, HARDWARE, READ, SOFTWARE, WRITE, Gdb, GdbError, symbols   # noqa: E402
from qemu import Qemu, main                      # noqa: E402

FOLDER = tempfile.TemporaryDirectory()
PROGRAM = FOLDER.name + "/debuggee"
TF = 0x100


def build():
    # 64-bit code in a 32-bit file, which QEMU's multiboot loader asks for.
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,-Ttext=0x100000,--build-id=none,-N,--no-warn-rwx-segments",
                    "-no-pie", "-Wl,-z,noexecstack", HERE + "/debuggee.S", "-o", PROGRAM],
                   check=True)
    subprocess.run(["objcopy", "-O", "elf32-i386", PROGRAM], check=True)
    return symbols(PROGRAM)


class Debugged:
    """QEMU with the program, stopped before its first instruction, and a debugger."""

    def __init__(self, *args, tcp=False, linux=None, **options):
        options.setdefault("machine", "pc")
        if tcp:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.address = probe.getsockname()
            where = "tcp:127.0.0.1:%d,server=on,wait=off" % self.address[1]
        else:
            self.address = tempfile.mktemp(dir=FOLDER.name)
            where = "unix:%s,server=on,wait=off" % self.address
        if not linux:
            args += ("-kernel", PROGRAM, "-device", "isa-debug-exit,iobase=0xf4,iosize=4")
        self.qemu = Qemu("-S", "-gdb", where, *args, linux=linux, **options)

    def __enter__(self):
        try:
            self.gdb = Gdb(self.address)
        except OSError:
            self.qemu.__exit__()
            raise
        return self.qemu, self.gdb

    def __exit__(self, kind, *args):
        self.gdb.close()
        if kind and issubclass(kind, (OSError, GdbError)) and self.qemu.child.poll():
            self.qemu.fail(str(args[0]))
        self.qemu.__exit__(kind, *args)


def reach(gdb, name):
    """To a label, by a breakpoint that is taken away again; the code is not translated yet."""
    gdb.insert(HARDWARE, AT[name])
    gdb.resume()
    gdb.remove(HARDWARE, AT[name])
    assert gdb.registers()["rip"] == AT[name], "rip %x at %s" % (gdb.registers()["rip"], name)


def finish(qemu, gdb):
    """The program ends and finds its sums right."""
    gdb.write(AT["stop"], b"\1")
    gdb.detach()
    qemu.end(status=1)      # isa-debug-exit: 2 * value + 1


def hits(gdb, name, rounds=5):
    """A breakpoint is hit once in each round of the loop."""
    before = None
    for _ in range(rounds):
        gdb.resume()
        rip, counter = gdb.registers()["rip"], gdb.value(AT["counter"])
        assert rip == AT[name], "rip %x, not %x (%s)" % (rip, AT[name], gdb.stopped)
        assert before is None or counter == before + 1, "counter %d after %d" % (counter, before)
        before = counter


def run_for_a_while(gdb):
    """Time enough that the loop is translated and linked."""
    gdb.go()
    time.sleep(0.3)
    gdb.interrupt()


def first_instruction():
    with Debugged() as (_, gdb):
        state = gdb.registers()
        assert (state["rip"], state["cs"]) == (0xfff0, 0xf000), state
        rip = gdb.step()
        assert rip != 0xfff0, "no step"


def breakpoint_early(kind):
    def case():
        with Debugged() as (qemu, gdb):
            reach(gdb, "round")
            gdb.insert(kind, AT["function"])
            hits(gdb, "function")
            gdb.remove(kind, AT["function"])
            finish(qemu, gdb)
    return case


def breakpoint_late(kind):
    def case():
        with Debugged() as (qemu, gdb):
            reach(gdb, "round")
            run_for_a_while(gdb)
            for name in ("function", "at_back", "in_function"):
                gdb.insert(kind, AT[name])
                hits(gdb, name)
                gdb.remove(kind, AT[name])
            run_for_a_while(gdb)
            finish(qemu, gdb)
    return case


def four_hardware():
    names = ("round", "at_call", "function", "at_back")
    with Debugged() as (qemu, gdb):
        reach(gdb, "at_end")
        for name in names:
            gdb.insert(HARDWARE, AT[name])
        try:
            gdb.insert(HARDWARE, AT["at_load"])
            raise AssertionError("a fifth hardware breakpoint")
        except GdbError:
            pass
        for _ in range(3):
            for name in names:
                gdb.resume()
                assert gdb.registers()["rip"] == AT[name], (name, gdb.registers())
        for name in names:
            gdb.remove(HARDWARE, AT[name])
        finish(qemu, gdb)


def watchpoint(kind, letter, variable, behind):
    def case():
        with Debugged() as (qemu, gdb):
            reach(gdb, "round")
            run_for_a_while(gdb)
            gdb.insert(kind, AT[variable], 8)
            for _ in range(4):
                gdb.resume()
                assert gdb.watched() == (letter, AT[variable]), gdb.stopped
                assert gdb.registers()["rip"] == AT[behind], gdb.registers()
            gdb.remove(kind, AT[variable], 8)
            run_for_a_while(gdb)
            finish(qemu, gdb)
    return case


def no_read_watchpoint():
    """The processor has none, so KVM's users answer that they do not know them."""
    with Debugged() as (qemu, gdb):
        reach(gdb, "round")
        assert gdb.ask("Z%d,%x,8" % (READ, AT["value"])) == ""
        finish(qemu, gdb)


def steps():
    """Every instruction of two rounds; the guest never sees TF."""
    with Debugged() as (qemu, gdb):
        reach(gdb, "round")
        for _ in range(2):
            path = [gdb.registers()["rip"]]
            while True:
                path.append(gdb.step())
                if path[-1] == AT["round"] or len(path) > 64:
                    break
            assert len(path) == 32, ["%x" % x for x in path]
            for name in ("at_load", "at_call", "function", "in_function", "at_back", "at_flags",
                         "at_string", "at_end"):
                assert AT[name] in path, name
            assert not gdb.registers()["eflags"] & TF
        # From a breakpoint on, and over one.
        gdb.insert(SOFTWARE, AT["at_call"])
        gdb.resume()
        assert gdb.step() == AT["function"]
        gdb.remove(SOFTWARE, AT["at_call"])
        finish(qemu, gdb)


def changes():
    """Registers, data and translated code, changed from outside."""
    with Debugged() as (qemu, gdb):
        reach(gdb, "at_back")
        assert gdb.registers()["rax"] == 1
        gdb.set("rax", 1000)
        total = gdb.value(AT["sum"])
        gdb.step()
        assert gdb.value(AT["sum"]) == total + 1000
        run_for_a_while(gdb)
        reach(gdb, "at_back")       # the next stop is behind a call of the old function
        gdb.write(AT["function"] + 1, b"\3")
        counter = gdb.value(AT["counter"])
        run_for_a_while(gdb)
        reach(gdb, "at_back")
        rounds = gdb.value(AT["counter"]) - counter
        gdb.write(AT["function"] + 1, b"\1")
        gdb.write(AT["extra"], (999 + 2 * rounds).to_bytes(8, "little"))
        assert gdb.registers()["rax"] == 3, gdb.registers()
        finish(qemu, gdb)


def tcp():
    with Debugged(tcp=True) as (qemu, gdb):
        reach(gdb, "round")
        finish(qemu, gdb)


def linux():
    """A function of a running kernel, which it has executed before; then steps through it."""
    with Debugged("-smp", "2", linux="6.1", append="nokaslr", machine="q35",
                  memory="512") as (qemu, gdb):
        gdb.go()
        qemu.shell()
        qemu.run("hostname one")
        at = int(qemu.run("grep -w __x64_sys_sethostname /proc/kallsyms").split()[0], 16)
        gdb.interrupt()
        for i, kind in enumerate((HARDWARE, SOFTWARE)):
            gdb.insert(kind, at)
            qemu.send("hostname two%d\n" % i)
            gdb.resume()
            thread = gdb.stopped[gdb.stopped.index("thread:") + 7:].split(";")[0]
            gdb.okay("Hg" + thread)
            assert gdb.registers()["rip"] == at, "%x" % gdb.registers()["rip"]
            gdb.remove(kind, at)
            for _ in range(40):
                gdb.ask("vCont;s:%s;" % thread)
            gdb.go()
            assert qemu.run("hostname").splitlines()[-1] == "two%d" % i
            gdb.interrupt()
        gdb.detach()
        qemu.send("poweroff\n")
        qemu.end()


if __name__ == "__main__":
    AT = build()
    main((
        ("the first instruction", first_instruction),
        ("software breakpoints in new code", breakpoint_early(SOFTWARE)),
        ("hardware breakpoints in new code", breakpoint_early(HARDWARE)),
        ("software breakpoints in translated code", breakpoint_late(SOFTWARE)),
        ("hardware breakpoints in translated code", breakpoint_late(HARDWARE)),
        ("four hardware breakpoints, not five", four_hardware),
        ("write watchpoint", watchpoint(WRITE, "w", "counter", "at_load")),
        ("access watchpoint", watchpoint(ACCESS, "a", "value", "at_call")),
        ("no read watchpoint", no_read_watchpoint),
        ("single steps", steps),
        ("registers, data and code are changed", changes),
        ("over TCP", tcp),
        ("Linux with two CPUs", linux),
    ))
