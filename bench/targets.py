"""What runs the works: this host, QEMU's TCG, `anykvm run`, QEMU under `anykvm exec`."""

import http.server
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "scripts", "lib"))

from initramfs import Tree                        # noqa: E402

DEFAULT = ("native", "tcg", "anykvm", "exec")
NAMES = (*DEFAULT, "window")
MEMORY = "2G"
FIRMWARE_STARTS = 7
DISK_MIB, TRANSFER_MIB = 256, 32
BOOT_LIMIT, WORK_LIMIT = 180, 240   # seconds, on the slowest target of a busy host


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


class Peer(http.server.BaseHTTPRequestHandler):
    """Serves zeros and swallows what is sent: the other end of the network works."""

    def do_GET(self):
        block = bytes(1 << 20)
        self.send_response(200)
        self.send_header("Content-Length", str(TRANSFER_MIB << 20))
        self.end_headers()
        for _ in range(TRANSFER_MIB):
            self.wfile.write(block)

    def do_POST(self):
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            got = self.rfile.read(min(left, 1 << 20))
            if not got:
                return
            left -= len(got)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class DirtyLog(threading.Thread):
    """Keeps QEMU's dirty log on: a live migration to nowhere, again and again."""

    def __init__(self, path, child):
        super().__init__(daemon=True)
        self.path, self.child, self.rounds = path, child, 0

    def run(self):
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(self.path)
            lines = link.makefile("rw")
            self.call(lines, "qmp_capabilities")
            self.call(lines, "migrate-set-parameters",
                      **{"max-bandwidth": 64 << 20, "downtime-limit": 1})
            while self.child.poll() is None:
                self.call(lines, "migrate", uri="exec:cat >/dev/null")
                state = "setup"
                while state not in ("completed", "failed", "cancelled"):
                    answer = self.call(lines, "query-migrate")
                    state = answer.get("status", "setup")
                    self.rounds = max(self.rounds,
                                      answer.get("ram", {}).get("dirty-sync-count", 0))
                    time.sleep(0.2)
                if state != "completed":
                    raise ValueError("migration " + state)
                self.call(lines, "cont")
        except (OSError, ValueError, KeyError) as error:
            if self.child.poll() is None and not self.rounds:
                say("no dirty log: %s" % error)

    @staticmethod
    def call(lines, command, **arguments):
        lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        lines.flush()
        while True:
            answer = json.loads(lines.readline())
            if "error" in answer:
                raise ValueError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]


class Targets:
    """`folder` is for temporary files; `guest` holds what scripts/guest-assets made."""

    def __init__(self, build, folder):
        self.folder = folder
        self.anykvm_exe = os.path.join(build, "anykvm")
        self.guest = os.path.join(build, "guest")
        self.disk = os.path.join(folder, "disk.img")
        with open(self.disk, "wb") as out:
            for _ in range(DISK_MIB):
                out.write(os.urandom(1 << 20))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.port = server.server_port
        self.root = None

    # ---- what a guest gets ----

    def initrd(self, names, image):
        """The guest's initramfs with the works and a command that runs `names`."""
        tree = Tree(merged=False)
        tree.copy("bench/run.sh", HERE + "/run.sh")
        tree.items["bench/run.sh"] = (0o100755, HERE + "/run.sh")
        tree.copy("bench/work.sh", HERE + "/work.sh")
        for name in names:
            tree.copy("bench/work/%s.sh" % name, HERE + "/work/%s.sh" % name)
        tree.file("anykvm/cmd", (
            "#!/bin/sh\nstty -onlcr -echo\necho BENCH ready\nexport BENCH_DISK=/dev/vda "
            "BENCH_DIRECT=iflag=direct BENCH_URL=http://10.0.2.2:%d/\n/bench/run.sh %s\n"
            "poweroff -f\n" % (self.port, " ".join(names))).encode(), 0o755)
        extra = os.path.join(self.folder, "extra.gz")
        tree.write(extra)
        parts = [{"small": "initramfs-6.1.cpio.gz"}.get(image, "initramfs-bench.cpio.gz")]
        if image == "gcc":
            parts.append("gcc.cpio.gz")
        path = os.path.join(self.folder, "initrd.gz")
        with open(path, "wb") as out:
            for part in [os.path.join(self.guest, p) for p in parts] + [extra]:
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, out)
        return path

    def native_root(self):
        """The guest's programs as a folder on this host."""
        if not self.root:
            self.root = os.path.join(self.folder, "root")
            os.makedirs(self.root)
            for name in ("rootfs-bench", "rootfs-gcc"):
                subprocess.run(["cp", "-a", os.path.join(self.guest, name) + "/.", self.root],
                               check=True)
            os.makedirs(self.root + "/bench/disk", exist_ok=True)
            for name in ("run.sh", "work.sh", "work"):
                source = os.path.join(HERE, name)
                (shutil.copytree if os.path.isdir(source) else shutil.copy)(
                    source, os.path.join(self.root, "bench", name))
            os.link(self.disk, self.root + "/bench/disk/image")
        return self.root

    # ---- command lines ----

    def native(self, names, cpus, _image):
        root = self.native_root()
        count = min(cpus, os.cpu_count())
        script = ("mount --rbind /proc {0}/proc && mount --rbind /dev {0}/dev && "
                  "mount --rbind /sys {0}/sys && mount -t tmpfs tmp {0}/tmp && "
                  "exec taskset -c 0-{1} chroot {0} /usr/bin/env -i "
                  "PATH=/usr/bin:/usr/sbin:/bin:/sbin LC_ALL=C.UTF-8 HOME=/root BENCH_DIRECT= "
                  "BENCH_DISK=/bench/disk/image BENCH_URL=http://127.0.0.1:{2}/ "
                  "sh /bench/run.sh {3}"
                  ).format(root, count - 1, self.port, " ".join(names))
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
        return [*unshare, "sh", "-c", script]

    @staticmethod
    def command_line():
        return "console=ttyS0 quiet panic=-1 anykvm.cmd=1"

    def qemu(self, names, cpus, image, accel):
        return ["qemu-system-x86_64", *accel, "-m", MEMORY, "-smp", str(cpus), "-nodefaults",
                "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", self.guest + "/vmlinuz-6.1", "-initrd", self.initrd(names, image),
                "-append", self.command_line(),
                "-drive", "file=%s,format=raw,if=virtio,readonly=on" % self.disk,
                "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]

    def tcg(self, names, cpus, image):
        return self.qemu(names, cpus, image, ["-accel", "tcg", "-cpu", "max"])

    def exec(self, names, cpus, image):
        return [self.anykvm_exe, "exec", "--",
                *self.qemu(names, cpus, image, ["-accel", "kvm", "-cpu", "host"])]

    def window(self, names, cpus, image):
        return [self.anykvm_exe, "exec", "--window", "--",
                *self.qemu(names, cpus, image, ["-accel", "kvm", "-cpu", "host"]),
                "-object", "memory-backend-memfd,id=ram,share=on,size=" + MEMORY,
                "-machine", "memory-backend=ram"]

    def anykvm(self, names, cpus, image):
        return [self.anykvm_exe, "run", "--memory", MEMORY, "--cpus", str(cpus), "--no-reboot",
                "--kernel", self.guest + "/vmlinuz-6.1", "--initrd", self.initrd(names, image),
                "--append", self.command_line(), "--disk", self.disk + ",readonly",
                "--net", "user"]

    # ---- running ----

    def run(self, target, names, machine):
        """({name: number or None}, seconds until the guest was ready)."""
        cpus, image, dirty = machine
        command = getattr(self, target)(names, cpus, image)
        with open(self.disk, "rb") as disk:     # into the host's page cache, if it went
            while disk.read(1 << 20):
                pass
        qmp = os.path.join(self.folder, "qmp")
        dirty = dirty and target not in ("native", "anykvm")
        if dirty:
            if os.path.exists(qmp):
                os.unlink(qmp)
            command += ["-qmp", "unix:%s,server=on,wait=off" % qmp]
        start, ready, results, last = time.monotonic(), None, dict.fromkeys(names), []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as child:
            timer = threading.Timer(BOOT_LIMIT + WORK_LIMIT * len(names), child.kill)
            timer.start()
            log = DirtyLog(qmp, child) if dirty else None
            for line in child.stdout:
                text = line.decode("latin1").strip()
                match = re.search(r"BENCH (\S+)(?: (\S+))?$", text)
                if match and match.group(1) == "ready":
                    ready = time.monotonic() - start
                    if log:
                        log.start()
                elif match and match.group(1) in results and \
                        match.group(2) not in (None, "failed"):
                    results[match.group(1)] = float(match.group(2))
                else:
                    last = (last + [text])[-8:]
            timer.cancel()
        if log and ready and not log.rounds:
            say("%s: the dirty log was never on" % target)
            results = dict.fromkeys(names)
        lost = [n for n in names if results[n] is None]
        if lost or ready is None and target != "native":
            say("%s: no result for %s; last lines:\n  %s"
                % (target, " ".join(lost) or "the boot", "\n  ".join(last)))
        return results, ready

    def firmware(self, target):
        """The median of some starts: one takes some 10 ms only."""
        took = [self.firmware_once(target) for _ in range(FIRMWARE_STARTS)]
        return None if None in took else statistics.median(took)

    def firmware_once(self, target):
        """Seconds from SeaBIOS's first word to that there is nothing to boot.

        QEMU's own start is not in it: that takes as long again, and is the same program on the
        host's processor.
        """
        accel = ["-accel", "tcg", "-cpu", "max"] if target == "tcg" else \
            ["-accel", "kvm", "-cpu", "host"]
        command = ["qemu-system-x86_64", *accel, "-m", "512M", "-nodefaults", "-no-user-config",
                   "-display", "none", "-chardev", "stdio,id=bios",
                   "-device", "isa-debugcon,iobase=0x402,chardev=bios"]
        if target == "exec":
            command = [self.anykvm_exe, "exec", "--", *command]
        start, took, last = None, None, []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as child:
            timer = threading.Timer(BOOT_LIMIT, child.kill)
            timer.start()
            for line in child.stdout:
                start = start or time.monotonic()
                last = (last + [line.decode("latin1").strip()])[-8:]
                if b"No bootable device" in line:
                    took = time.monotonic() - start
                    break
            timer.cancel()
            child.kill()
        if took is None:
            say("%s: SeaBIOS did not end; last lines:\n  %s" % (target, "\n  ".join(last)))
        return took
