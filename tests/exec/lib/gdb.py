"""A client of gdb's remote protocol, as small as QEMU's stub allows."""

import re
import socket
import struct
import subprocess
import time

REGISTERS = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()
SEGMENTS = "eflags cs ss ds es fs gs".split()
SOFTWARE, HARDWARE, WRITE, READ, ACCESS = range(5)


class GdbError(AssertionError):
    """The stub's E packet, or a broken conversation."""


class Gdb:
    """One connection; every method is one packet."""

    def __init__(self, address, limit=60):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        end = time.monotonic() + limit
        while True:
            self.socket = socket.socket(family)
            self.socket.settimeout(limit)
            try:
                self.socket.connect(address)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.buffer = b""
        self.inserted = set()
        self.ask("qSupported:multiprocess-;swbreak+;hwbreak+")
        self.ask("qXfer:features:read:target.xml:0,ffb")    # before it QEMU knows no P packet
        self.stopped = self.ask("?")

    def close(self):
        self.socket.close()

    def _byte(self):
        while not self.buffer:
            some = self.socket.recv(65536)
            if not some:
                raise GdbError("the stub closed the connection")
            self.buffer += some
        first, self.buffer = self.buffer[:1], self.buffer[1:]
        return first

    def send(self, text):
        data = text.encode()
        self.socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 255))

    def receive(self):
        while self._byte() != b"$":
            pass
        data = b""
        while True:
            byte = self._byte()
            if byte == b"#":
                break
            data += byte
        told = int(self._byte() + self._byte(), 16)
        if told != sum(data) & 255:
            raise GdbError("checksum of %r" % data)
        try:
            self.socket.sendall(b"+")
        except BrokenPipeError:
            pass    # after the answer to a detach the guest may have ended QEMU
        return data.decode()

    def ask(self, text):
        self.send(text)
        answer = self.receive()
        if re.fullmatch(r"E[0-9a-f]{2}", answer):
            raise GdbError("%s: %s" % (text, answer))
        return answer

    def okay(self, text):
        answer = self.ask(text)
        if answer != "OK":
            raise GdbError("%s: %r" % (text, answer))

    # ---- registers and memory ----

    def registers(self):
        data = bytes.fromhex(self.ask("g"))
        values = dict(zip(REGISTERS, struct.unpack_from("<17Q", data)))
        values.update(zip(SEGMENTS, struct.unpack_from("<7I", data, 17 * 8)))
        return values

    def set(self, name, value):
        self.okay("P%x=%s" % (REGISTERS.index(name), struct.pack("<Q", value).hex()))

    def read(self, address, size=8):
        return bytes.fromhex(self.ask("m%x,%x" % (address, size)))

    def value(self, address):
        return struct.unpack("<Q", self.read(address))[0]

    def write(self, address, data):
        self.okay("M%x,%x:%s" % (address, len(data), data.hex()))

    # ---- running ----

    def insert(self, kind, address, size=1):
        self.okay("Z%d,%x,%x" % (kind, address, size))
        self.inserted.add((kind, address, size))

    def remove(self, kind, address, size=1):
        self.okay("z%d,%x,%x" % (kind, address, size))
        self.inserted.discard((kind, address, size))

    def _past(self):
        """The breakpoints at the instruction that is next: gdb steps without them."""
        rip = self.registers()["rip"] if self.inserted else None
        return [x for x in self.inserted if x[0] <= HARDWARE and x[1] == rip]

    def step(self):
        """One instruction: where it led."""
        here = self._past()
        for x in here:
            self.remove(*x)
        self.stopped = self.ask("vCont;s:1")
        for x in here:
            self.insert(*x)
        return self.registers()["rip"]

    def go(self):
        if self._past():
            self.step()
        self.send("vCont;c")

    def wait(self):
        self.stopped = self.receive()
        return self.stopped

    def resume(self):
        """Continues to the next stop: its reply."""
        self.go()
        return self.wait()

    def interrupt(self):
        self.socket.sendall(b"\x03")
        return self.wait()

    def detach(self):
        self.okay("D")

    def watched(self):
        """The address in the last stop reply, and which kind of watchpoint."""
        found = re.search(r"(r|a)?watch:([0-9a-f]+)", self.stopped)
        return (found.group(1) or "w", int(found.group(2), 16)) if found else None


def symbols(program):
    """The program's symbols, with the names of local labels."""
    lines = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    return {name: int(value, 16) for value, _, name in (x.split() for x in lines.splitlines())}
