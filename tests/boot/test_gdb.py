"""The gdb server: registers, memory, breakpoints, steps and threads, by its protocol and by gdb."""

import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile

from guest import HERE, PROGRAM, TIMEOUT, Guest, initrd_with, kernel_options
from cases import Skip, check, check_equal, run_cases


class Debugger:
    """The debugger's end of the remote protocol, on a Unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.buffer = b""
        check("vContSupported+" in self.ask("qSupported:swbreak+;hwbreak+"), "qSupported")

    def close(self):
        self.socket.close()

    def send(self, text):
        data = text.encode("latin1")
        self.socket.sendall(b"$%s#%02x" % (data, sum(data) & 255))

    def receive(self):
        while True:
            match = re.match(rb"[+]*\$([^#]*)#[0-9a-f]{2}", self.buffer)
            if match:
                self.buffer = self.buffer[match.end():]
                try:
                    self.socket.sendall(b"+")
                except OSError:    # it has nothing more to say
                    pass
                return match.group(1).decode("latin1")
            part = self.socket.recv(65536)
            check(part, "the server has closed the connection")
            self.buffer += part

    def ask(self, text):
        self.send(text)
        return self.receive()

    def good(self, text):
        check_equal(self.ask(text), "OK", text)

    def register(self, number):
        value = bytes.fromhex(self.ask("p%x" % number))
        return int.from_bytes(value, "little")

    def rip(self):
        return self.register(16)

    def memory(self, address, length):
        return bytes.fromhex(self.ask("m%x,%x" % (address, length)))

    def interrupt(self):
        self.socket.sendall(b"\x03")
        return self.receive()


def thread_of(stop):
    return int(re.search(r"thread:([0-9a-f]+);", stop).group(1), 16)


class Session:
    """A guest with a fixed kernel address, and the addresses of its symbols."""

    def __init__(self, cpus=2, files=None):
        self.work = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.work.name, "gdb")
        initrd = initrd_with(self.work.name, files) if files else None
        self.guest = Guest(["--cpus", str(cpus), "--memory", "512M", "--append", "nokaslr",
                            "--gdb", "unix:" + self.path], initrd=initrd)

    def __enter__(self):
        self.guest.boot()
        return self

    def __exit__(self, *error):
        self.guest.__exit__(*error)
        self.work.cleanup()

    def symbol(self, name):
        return int(self.guest.output("grep -w %s /proc/kallsyms" % name).split()[0], 16)

    def connect(self):
        return Debugger(self.path)


def attach_and_leave():
    with Session() as s:
        gdb = s.connect()
        check(gdb.ask("?").startswith("T05thread:"), "stop reply")
        check_equal((gdb.ask("qfThreadInfo"), gdb.ask("qsThreadInfo")), ("m1,2", "l"), "threads")
        check("vCPU 1" in bytes.fromhex(gdb.ask("qThreadExtraInfo,2")).decode(), "thread 2's name")
        xml = gdb.ask("qXfer:features:read:target.xml:0,3000")
        check(xml.startswith("l") and xml.endswith("</target>"), "target description")
        check_equal(len(gdb.ask("g")) // 2,
                    sum(int(x) for x in re.findall(r'<reg [^>]*bitsize="(\d+)"', xml)) // 8,
                    "bytes of all registers")
        check_equal(gdb.ask("Z3,1000,1"), "", "a kind of breakpoint that does not exist")
        check_equal(gdb.ask("m123456789abc,4")[0], "E", "memory that is not there")
        check_equal(gdb.ask("nonsense"), "", "a packet that does not exist")
        check("512 MiB" in bytes.fromhex(gdb.ask("qRcmd," + b"info status".hex())).decode(),
              "the monitor's answer")
        gdb.good("D")
        check_equal(s.guest.output("echo on"), "on", "the guest after the debugger has left")
        gdb.close()
        again = s.connect()
        again.send("c")
        check_equal(s.guest.output("echo on"), "on", "the guest after 'continue'")
        check(again.interrupt().startswith("T02"), "stop reply of Ctrl-C")
        again.close()          # without a word: the guest must not stand still for ever
        check_equal(s.guest.output("echo on"), "on", "the guest after a lost debugger")
        check_equal(s.guest.power_off(), 0, "status")


def stop_at(gdb, s, insert, address, reason):
    gdb.good(insert)
    gdb.send("c")
    s.guest.console.sendline("hostname other")
    stop = gdb.receive()
    check(stop.startswith("T05") and reason in stop, "stop reply %s" % stop)
    gdb.good("Hg%x" % thread_of(stop))
    return stop


def breakpoint_at(kind, reason):
    with Session() as s:
        address = s.symbol("__x64_sys_sethostname")
        gdb = s.connect()
        code = gdb.memory(address, 16)
        stop = stop_at(gdb, s, "Z%d,%x,1" % (kind, address), address, reason)
        check_equal(gdb.rip(), address, "RIP")
        check_equal(gdb.memory(address, 16), code, "code under the breakpoint")
        gdb.good("z%d,%x,1" % (kind, address))
        stack = gdb.register(7)
        # As a debugger does it: over the breakpoint with it taken away, others at rest.
        for _ in range(5):
            stop = gdb.ask("vCont;s:%x" % thread_of(stop))
            check(stop.startswith("T05"), "stop reply of a step: " + stop)
        check(address < gdb.rip() < address + 64, "RIP after five steps: %x" % gdb.rip())
        check(abs(gdb.register(7) - stack) < 256, "RSP after five steps")
        gdb.good("Z%d,%x,1" % (kind, address))
        gdb.send("vCont;c")
        s.guest.expect(r"@0@\r*\n")
        check_equal(s.guest.output("uname -n"), "other", "the name that was set")
        check(gdb.interrupt().startswith("T02"), "Ctrl-C")
        gdb.good("D")
        gdb.close()
        s.guest.output("hostname third")
        check_equal(s.guest.complaints(), [], "complaints of the kernel")
        check_equal(s.guest.power_off(), 0, "status")


def watchpoint():
    with Session() as s:
        s.guest.output("hostname first")
        space = s.symbol("init_uts_ns")
        gdb = s.connect()
        data = gdb.memory(space, 512)
        at = space + data.index(b"first\0")
        aligned = at & ~7
        stop_at(gdb, s, "Z2,%x,8" % aligned, aligned, "watch:%x;" % aligned)
        check_equal(gdb.memory(at, 1), b"o", "the byte behind the watchpoint")
        gdb.good("z2,%x,8" % aligned)
        gdb.send("c")
        s.guest.expect(r"@0@\r*\n")
        check(gdb.interrupt().startswith("T02"), "Ctrl-C")
        gdb.good("M%x,5:%s" % (at, b"fifth".hex()))
        gdb.good("D")
        gdb.close()
        check_equal(s.guest.output("uname -n"), "fifth", "what the debugger wrote")
        check_equal(s.guest.power_off(), 0, "status")


def registers():
    with Session(cpus=1) as s:
        gdb = s.connect()
        before = gdb.ask("g")
        gdb.good("P3=%s" % struct.pack("<Q", 0x1122334455667788).hex())
        check_equal(gdb.register(3), 0x1122334455667788, "RDX")
        # xmm5 and st2 follow the 24 general registers, 8 of the x87 and its 8 words.
        gdb.good("P2d=" + bytes(range(16)).hex())
        check_equal(gdb.ask("p2d"), bytes(range(16)).hex(), "XMM5")
        check_equal(gdb.ask("P999=00")[0], "E", "a register that is not there")
        gdb.good("G" + before)
        check_equal(gdb.ask("g"), before, "registers put back")
        gdb.good("D")
        gdb.close()
        check_equal(s.guest.output("echo $((6 * 7))"), "42", "the guest afterwards")
        check_equal(s.guest.power_off(), 0, "status")


def both_vcpus():
    """Two vCPUs meet the same breakpoint all the time; no stop gets lost, no step goes astray."""
    with Session() as s:
        address = s.symbol("__x64_sys_sethostname")
        s.guest.output("for i in 1 2; do (while :; do hostname x$i; done) & done")
        gdb = s.connect()
        seen = set()
        for _ in range(25):
            gdb.good("Z0,%x,1" % address)
            stop = gdb.ask("vCont;c")
            check("swbreak" in stop, "stop reply " + stop)
            thread = thread_of(stop)
            seen.add(thread)
            gdb.good("Hg%x" % thread)
            check_equal(gdb.rip(), address, "RIP")
            gdb.good("z0,%x,1" % address)
            stop = gdb.ask("vCont;s:%x" % thread)
            check_equal(thread_of(stop), thread, "thread of a step")
            check(address < gdb.rip() < address + 16, "RIP after a step: %x" % gdb.rip())
        check_equal(seen, {1, 2}, "vCPUs seen")
        gdb.good("D")
        gdb.close()
        check_equal(s.guest.complaints(), [], "complaints of the kernel")
        check_equal(s.guest.power_off(), 0, "status")


def the_guests_own():
    """The guest's INT3 stays the guest's while a debugger has breakpoints."""
    with tempfile.TemporaryDirectory() as work:
        program = os.path.join(work, "trap")
        subprocess.run(["gcc", "-O1", "-static", "-o", program, os.path.join(HERE, "trap.c")],
                       check=True, capture_output=True)
        with Session(files={"trap": program}) as s:
            address = s.symbol("__x64_sys_sethostname")
            gdb = s.connect()
            for insert in ("Z0,%x,1", "Z1,%x,1"):
                gdb.good(insert % address)
                gdb.send("c")
                check_equal(s.guest.run("/trap")[0], 0, "status of a program with an INT3")
                check(gdb.interrupt().startswith("T02"), "Ctrl-C")
            gdb.close()
            check_equal(s.guest.power_off(), 0, "status")


def the_end():
    entry = 0x100200    # of every 64-bit bzImage, as the VMM loads it
    with Session() as s:
        gdb = s.connect()
        gdb.good("Z1,%x,1" % entry)
        gdb.send("c")
        s.guest.console.sendline("reboot")
        stop = gdb.receive()
        check("hwbreak" in stop, "stop reply after a reboot: " + stop)
        check_equal(gdb.rip(), entry, "RIP")
        gdb.good("z1,%x,1" % entry)
        gdb.send("c")
        s.guest.boot()
        s.guest.console.sendline("poweroff")
        check_equal(gdb.receive(), "W00", "what the debugger is told at the end")
        gdb.close()
        check_equal(s.guest.wait(), 0, "status")


def waits_for_a_debugger():
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "gdb")
        guest = subprocess.Popen(
            [PROGRAM, "run", *kernel_options(), "--gdb", "unix:%s,wait" % path, "--", "echo", "on"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            said = guest.stderr.readline().decode()
            check("'target remote %s'" % path in said, "it says where it waits: %r" % said)
            gdb = Debugger(path)
            check_equal(gdb.rip(), 0x100200, "RIP, at the 64-bit entry of the kernel")
            gdb.good("D")
            out, err = guest.communicate(timeout=TIMEOUT)
            check_equal((guest.returncode, out), (0, b"on\n"), "the command (stderr %r)" % err)
        finally:
            guest.kill()
            guest.communicate()


def gdb_itself():
    if not shutil.which("gdb"):
        raise Skip("there is no gdb")
    with Session() as s:
        address = s.symbol("__x64_sys_sethostname")
        s.guest.output("(while :; do hostname x; sleep 0.1; done) &")
        script = ["target remote " + s.path, "info threads", "break *0x%x" % address, "continue",
                  "stepi", "print (long)$rip - 0x%x" % address, "info registers eflags cr3",
                  "print $xmm0.uint128", "delete", "hbreak *0x%x" % address, "continue", "delete",
                  "detach"]
        argv = ["gdb", "-nx", "-q", "-batch", "-ex", "set pagination off"]
        for line in script:
            argv += ["-ex", line]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)
        text = done.stdout + done.stderr
        for want in (r"2 +Thread 2 \(vCPU 1", r"Breakpoint 1, ", r"\$1 = [1-9]", r"eflags .*\[.*\]",
                     r"Breakpoint 2, "):
            check(re.search(want, text), "gdb does not say %r:\n%s" % (want, text[-1500:]))
        check_equal(s.guest.output("echo on"), "on", "the guest afterwards")
        check_equal(s.guest.complaints(), [], "complaints of the kernel")


run_cases([
    ("a debugger comes and goes", attach_and_leave),
    ("registers are read and written", registers),
    ("a software breakpoint, steps", lambda: breakpoint_at(0, "swbreak:;")),
    ("a hardware breakpoint, steps", lambda: breakpoint_at(1, "hwbreak:;")),
    ("a watchpoint, memory is written", watchpoint),
    ("two vCPUs at one breakpoint", both_vcpus),
    ("breakpoint instructions of the guest", the_guests_own),
    ("reboot and power-off under a debugger", the_end),
    ("a guest that waits", waits_for_a_debugger),
    ("gdb itself", gdb_itself),
])
