"""Debian's QEMU under `anykvm exec`, driven: serial console, QMP and HMP, standard error."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.join(TOP, "tests/lib"))

from tap import Tap                              # noqa: E402

ANYKVM = os.path.join(os.environ["ANYKVM_BUILD"], "anykvm")
GUEST = os.environ.get("ANYKVM_GUEST_DIR", os.path.join(TOP, "build/guest"))
LIMIT = 120     # seconds that anything may take on a busy machine
PROMPT = "anykvm guest:"

# What QEMU may say: not about KVM's features, or about those on the list of gaps (docs/gaps.md).
WARNINGS = (
    r"recommended cpus|deprecated|kernel-irqchip",
    r"terminating on signal",
    r"CPUID\.\w+:\w+\.(hle|rtm|mpx|3dnow|3dnowext|movdir64b|perfctr-core) ",
    r"CPUID\.0DH:EAX \[bit [34]\]",                       # MPX's state
    r"\.vmx-(apicv-\w+|posted-intr|pml|vmfunc|eptp-switching|rd(rand|seed)-exit) ",
    r"\.vmx-(entry|exit)-load-perf-global-ctrl ",
    r"\.core-capability |MSR\(CFH\)\.split-lock-detect ",   # nor does the kernel's KVM
)


def host_lacks(warning):
    """A feature that this host lacks, so that the kernel's KVM would not have it here either."""
    found = re.search(r"host doesn't support requested feature: CPUID\.\w+:\w+\.([\w.-]+) ", warning)
    if not found:
        return False
    with open("/proc/cpuinfo") as info:
        flags = re.search(r"flags\s*:(.*)", info.read()).group(1).split()
    return re.sub(r"[.-]", "_", found.group(1)) not in flags


class Failure(Exception):
    """What did not happen, with the last of the guest's output."""


class Qemu:
    """One QEMU. `with Qemu("-M", "pc", …) as q:` ends it whatever happens."""

    def __init__(self, *args, launcher=(), memory="256", machine=None, linux=None, append="",
                 monitor=True, serial=True, accel="kvm", environment=()):
        self.dir = tempfile.mkdtemp(prefix="anykvm-qemu-")
        self.text, self.seen = "", 0
        self.events, self.monitor, self.buffer = [], None, b""
        self.stderr = open(self.dir + "/stderr", "w+b")
        command = [ANYKVM, "exec", *launcher, "--"] if accel == "kvm" else []
        command += ["qemu-system-x86_64", "-accel", accel, "-m", memory, "-nodefaults", "-display",
                    "none"]
        if machine:
            command += ["-M", machine]
        if serial:
            command += ["-serial", "stdio"]
        if monitor:
            command += ["-qmp", "unix:%s/qmp,server=on,wait=off" % self.dir]
        if linux:
            command += ["-kernel", "%s/vmlinuz-%s" % (GUEST, linux),
                        "-initrd", "%s/initramfs-%s.cpio.gz" % (GUEST, linux),
                        "-append", ("console=ttyS0 " + append).strip()]
        self.command = command + [str(x) for x in args]
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.stderr, cwd=self.dir,
                                      env={**os.environ, **dict(environment)})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            some = os.read(self.child.stdout.fileno(), 65536)
            if not some:
                return
            self.text += some.decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.reader.join(5)
        if self.monitor:
            self.monitor.close()
        self.stderr.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- what it said ----

    def errors(self):
        self.stderr.flush()
        return open(self.dir + "/stderr", errors="replace").read()

    def fail(self, what):
        state = self.child.poll()
        raise Failure("%s; QEMU %s\n%s\n...%s" % (
            what, "runs" if state is None else "ended with %d" % state, self.errors(),
            self.text[-1500:]))

    def warnings(self):
        return [x for x in self.errors().splitlines()
                if x.strip() and not any(re.search(w, x) for w in WARNINGS) and not host_lacks(x)]

    # ---- serial console ----

    def expect(self, pattern, limit=LIMIT):
        """Waits for `pattern` behind what was expected before; the match."""
        end = time.monotonic() + limit
        while True:
            over = self.child.poll() is not None
            if over:
                self.reader.join(5)
            found = re.search(pattern, self.text[self.seen:])
            if found:
                self.seen += found.end()
                return found
            if over or time.monotonic() > end:
                self.fail("no %r%s" % (pattern, "" if over else " in time"))
            time.sleep(0.02)

    def send(self, text):
        self.child.stdin.write(text.encode())
        self.child.stdin.flush()

    def shell(self):
        """Waits for the default guest's shell."""
        self.expect(PROMPT)
        self.expect(r"# ")

    def run(self, command, limit=LIMIT):
        """A command in the guest's shell: its output. The marks are not in the echo."""
        self.send("echo BE''GIN; %s; echo EN''D=$?\n" % command)
        found = self.expect(r"(?s)BEGIN\r\n(.*?)END=(\d+)\r", limit)
        if found.group(2) != "0":
            self.fail("%r ended with %s" % (command, found.group(2)))
        return found.group(1).replace("\r", "")

    def end(self, status=0, limit=LIMIT):
        """QEMU ends by itself, with this status and without warnings."""
        try:
            self.child.wait(limit)
        except subprocess.TimeoutExpired:
            self.fail("no end in time")
        self.reader.join(5)
        if self.child.returncode != status:
            self.fail("status %d is not %d" % (self.child.returncode, status))
        self.quiet()

    def quiet(self):
        if self.warnings():
            self.fail("QEMU complains")

    # ---- QMP, and HMP through it ----

    def _connect(self):
        end = time.monotonic() + LIMIT
        self.monitor = socket.socket(socket.AF_UNIX)
        self.monitor.settimeout(LIMIT)
        while True:
            try:
                self.monitor.connect(self.dir + "/qmp")
                break
            except OSError:
                if self.child.poll() is not None or time.monotonic() > end:
                    self.monitor = None
                    self.fail("no monitor")
                time.sleep(0.02)
        self._message()
        self.qmp("qmp_capabilities")

    def _message(self):
        while b"\n" not in self.buffer:
            try:
                some = self.monitor.recv(65536)
            except (socket.timeout, ConnectionError):
                some = b""
            if not some:
                self.fail("the monitor is silent")
            self.buffer += some
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def qmp(self, command, **arguments):
        if not self.monitor:
            self._connect()
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.monitor.sendall(json.dumps(message).encode())
        while True:
            answer = self._message()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                self.fail("%s: %s" % (command, answer["error"]["desc"]))
            else:
                return answer["return"]

    def hmp(self, line):
        return self.qmp("human-monitor-command", command_line=line).replace("\r", "")

    def event(self, name, limit=LIMIT):
        """Waits for an event of this name and takes it."""
        if not self.monitor:
            self._connect()
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for i, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(i)
            self.monitor.settimeout(max(0.1, end - time.monotonic()))
            message = self._message()
            if "event" in message:
                self.events.append(message)
        return self.fail("no event " + name)


def skip_reason(*files):
    """Why a file of tests cannot run here, or None."""
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    if not os.path.exists(GUEST + "/vmlinuz-6.1"):
        return "scripts/guest-assets has not been run"
    for name in files:
        if not os.path.exists(name):
            return name + " is not installed"
    return None


def main(cases, files=(), full=()):
    """Runs `cases`, a list of (name, function without arguments), and `full` ones on demand.

    Options: --full, and names' parts: only cases whose name has one of them.
    """
    words = [x for x in sys.argv[1:] if not x.startswith("-")]
    cases = list(cases) + (list(full) if "--full" in sys.argv else [])
    cases = [c for c in cases if not words or any(w in c[0] for w in words)]
    why = skip_reason(*files)
    if why:
        print("1..0 # SKIP " + why)
        return
    tap = Tap(len(cases))
    for name, function in cases:
        start = time.monotonic()
        try:
            function()
        except Failure as error:
            tap.case(name, False, error)
        except (OSError, AssertionError, ValueError, KeyError, IndexError) as error:
            tap.case(name, False, "%s: %s" % (type(error).__name__, error))
        else:
            tap.case(name, True)
        if "-v" in sys.argv:
            tap.note("%.1f s" % (time.monotonic() - start))
    tap.finish()
