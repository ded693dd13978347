"""Disks, network, random numbers, 32-bit programs: work with checksums, in the guest."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading

from guest import HERE, TOP, Guest, asset
from cases import Skip, check, check_equal, run_cases

sys.path.insert(0, os.path.join(TOP, "scripts", "lib"))
from initramfs import Tree    # noqa: E402

MIB = 1 << 20


def sha256(path):
    with open(path, "rb") as source:
        return hashlib.sha256(source.read()).hexdigest()


def image(work, size):
    path = os.path.join(work, "disk.img")
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))
    return path


def disk_reads_and_writes():
    with tempfile.TemporaryDirectory() as work:
        path = image(work, 64 * MIB)
        with Guest(["--cpus", "2", "--disk", path]) as guest:
            guest.boot()
            check_equal(guest.output("sha256sum /dev/vda").split()[0], sha256(path), "the disk")
            guest.output("dd if=/dev/urandom of=/dev/vda bs=1M count=16 seek=8 2>/dev/null; sync")
            want = guest.output("sha256sum /dev/vda").split()[0]
            check_equal(guest.power_off(), 0, "status")
        check_equal(sha256(path), want, "the disk after the guest wrote")


def disk_readonly():
    with tempfile.TemporaryDirectory() as work:
        path = image(work, 4 * MIB)
        before = sha256(path)
        with Guest(["--disk", path + ",readonly"]) as guest:
            guest.boot()
            check_equal(guest.output("cat /sys/block/vda/ro"), "1", "read-only flag")
            check(guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=1")[0], "a write succeeded")
            check_equal(guest.output("sha256sum /dev/vda").split()[0], before, "the disk")
            check_equal(guest.power_off(), 0, "status")
        check_equal(sha256(path), before, "the file")


def disk_snapshot():
    with tempfile.TemporaryDirectory() as work:
        path = image(work, 4 * MIB)
        before = sha256(path)
        with Guest(["--disk", path + ",snapshot"]) as guest:
            guest.boot()
            guest.output("dd if=/dev/zero of=/dev/vda bs=4k seek=3 count=5 conv=notrunc 2>&1; sync")
            guest.output("echo 3 > /proc/sys/vm/drop_caches")
            with open(path, "rb") as source:
                data = bytearray(source.read())
            data[3 * 4096:8 * 4096] = bytes(5 * 4096)
            check_equal(guest.output("sha256sum /dev/vda").split()[0],
                        hashlib.sha256(data).hexdigest(), "what the guest reads back")
            check_equal(guest.power_off(), 0, "status")
        check_equal(sha256(path), before, "the file")


def file_system():
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "disk.img")
        with open(path, "wb") as out:
            out.truncate(128 * MIB)
        with Guest(["--cpus", "2", "--disk", path]) as guest:
            guest.boot()
            guest.output("mke2fs -q /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt")
            guest.output("cp -r /bin/ /lib/modules /mnt/ && mkdir /mnt/many")
            guest.output("i=0; while [ $i -lt 500 ]; do echo $i > /mnt/many/$i; i=$((i+1)); done")
            guest.output("dd if=/dev/urandom of=/mnt/big bs=1M count=32 2>/dev/null")
            # The list lies outside of the file system that it is about.
            guest.output("cd /mnt && find . -type f | sort | xargs sha256sum > /run/sums; cd /")
            guest.output("umount /mnt && echo 3 > /proc/sys/vm/drop_caches")
            guest.output("mount -t ext4 /dev/vda /mnt && cd /mnt && sha256sum -c -s /run/sums")
            check(int(guest.output("wc -l < /run/sums")) > 500, "files are missing")
            guest.output("cd / && umount /mnt")
            check_equal(guest.complaints(), [], "complaints of the kernel")
            check_equal(guest.power_off(), 0, "status")


def several_disks():
    with tempfile.TemporaryDirectory() as work:
        options, sums = [], []
        for i in range(3):
            path = os.path.join(work, "disk%d" % i)
            with open(path, "wb") as out:
                out.write(os.urandom(MIB))
            options += ["--disk", path + (",readonly" if i % 2 else "")]
            sums.append(sha256(path))
        with Guest(options) as guest:
            guest.boot()
            got = [guest.output("sha256sum /dev/vd" + x).split()[0] for x in "abc"]
            check_equal(got, sums, "disks in order")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def network():
    with tempfile.TemporaryDirectory() as work:
        with open(os.path.join(work, "file"), "wb") as out:
            out.write(os.urandom(32 * MIB))
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *a: Quiet(*a, directory=work))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Guest(["--cpus", "2", "--net", "user"]) as guest:
                guest.boot()
                check("10.0.2." in guest.output("ip addr show"), "there is no address")
                got = guest.output("wget -q -O - http://10.0.2.2:%d/file | sha256sum"
                                   % server.server_port)
                check_equal(got.split()[0], sha256(os.path.join(work, "file")), "the download")
                check_equal(guest.complaints(), [], "complaints of the kernel")
                check_equal(guest.power_off(), 0, "status")
        finally:
            server.shutdown()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def forward():
    port = free_port()
    with Guest(["--net", "user,hostfwd=tcp:127.0.0.1:%d-:7000" % port]) as guest:
        guest.boot()
        # A count ends the input: libslirp may reset a connection whose half is shut early.
        guest.output("printf '#!/bin/sh\\nhead -c %d | sha256sum\\n' > /tmp/serve" % MIB)
        guest.output("chmod +x /tmp/serve; nc -l -p 7000 -e /tmp/serve & "
                     "until netstat -ltn | grep -q :7000; do usleep 100000; done")
        data = os.urandom(MIB)
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.settimeout(30)
            s.sendall(data)
            got = b""
            while b"\n" not in got:
                part = s.recv(4096)
                if not part:
                    break
                got += part
        check_equal(got.split()[:1], [hashlib.sha256(data).hexdigest().encode()], "the answer")


def random_numbers():
    with Guest(["--rng"]) as guest:
        guest.boot()
        check_equal(guest.output("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0",
                    "source")
        first, second = [guest.output("head -c 64 /dev/hwrng | sha256sum") for _ in range(2)]
        check(first != second, "the same numbers twice")


def programs_32():
    with tempfile.TemporaryDirectory() as work:
        program = os.path.join(work, "prog32")
        done = subprocess.run(["gcc", "-m32", "-O1", "-msse2", "-static", "-nostdlib",
                               "-ffreestanding", "-fno-pie", "-no-pie", "-fno-stack-protector",
                               "-o", program, os.path.join(HERE, "prog32.c")],
                              capture_output=True, text=True)
        if done.returncode:
            raise Skip("the compiler makes no 32-bit program: " + done.stderr[-200:])
        tree = Tree(merged=False)
        tree.copy("prog32", program)
        extra, joined = os.path.join(work, "extra.gz"), os.path.join(work, "joined")
        tree.write(extra)
        with open(joined, "wb") as out:
            for part in (asset("initramfs-6.1.cpio.gz"), extra):
                with open(part, "rb") as source:
                    out.write(source.read())
        with Guest(["--cpus", "2"], initrd=joined) as guest:
            guest.boot()
            status, text = guest.run("/prog32 one two")
            check_equal((status, text.split("\n")[-2:]), (32, ["all good", ""]),
                        "status and last line of a 32-bit program (%s)" % text)
            check_equal(guest.power_off(), 0, "status")


run_cases([
    ("virtio-blk reads and writes", disk_reads_and_writes),
    ("a read-only disk", disk_readonly),
    ("a disk with snapshot keeps its file", disk_snapshot),
    ("a file system with many files", file_system),
    ("several disks", several_disks),
    ("a download over virtio-net", network),
    ("a forwarded port", forward),
    ("virtio-rng", random_numbers),
    ("32-bit programs", programs_32),
])
