"""Disks, network, random numbers: work with checksums, in the guest.

usage: test_devices.py [--full]    the transfers are ten times as large
"""

import hashlib
import http.server
import os
import socket
import sys
import tempfile
import threading

from guest import Guest
from cases import check, check_equal, run_cases

MIB = 1 << 20
FULL = "--full" in sys.argv[1:]
TRANSFER = (1200 if FULL else 120) * MIB


def sha256(path, start=0, length=None):
    with open(path, "rb") as source:
        source.seek(start)
        return hashlib.sha256(source.read(length)).hexdigest()


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


def parallel_requests():
    """Four writers past the page cache, each in its own part of the disk, while four read."""
    part = (64 if FULL else 8) * MIB
    script = ("for i in 0 1 2 3; do "
              "(dd if=/dev/urandom of=/run/part$i bs=64k count=%(n)d 2>/dev/null; "
              "dd if=/run/part$i of=/dev/vda bs=4k seek=$((i * %(k)d)) conv=notrunc oflag=direct "
              "2>/dev/null; dd if=/dev/vda bs=4k skip=$((i * %(k)d)) count=%(k)d iflag=direct "
              "2>/dev/null | cmp - /run/part$i || echo differs) & "
              "dd if=/dev/vda of=/dev/null bs=16k skip=$((%(s)d + i * 64)) count=256 iflag=direct "
              "2>/dev/null & done; wait" % {"n": part >> 16, "k": part >> 12, "s": 4 * part >> 14})
    with tempfile.TemporaryDirectory() as work:
        path = image(work, 4 * part + 32 * MIB)
        tail = sha256(path, 4 * part)
        with Guest(["--cpus", "4", "--disk", path], timeout=600) as guest:
            guest.boot()
            check_equal(guest.output(script), "", "what the guest's comparisons say")
            want = [guest.output("sha256sum /run/part%d" % i).split()[0] for i in range(4)]
            check_equal(guest.complaints(), [], "complaints of the kernel")
            check_equal(guest.power_off(), 0, "status")
        check_equal([sha256(path, i * part, part) for i in range(4)], want, "parts of the file")
        check_equal(sha256(path, 4 * part), tail, "the part of the file that was only read")


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


def programs_from_disk():
    """Programs in pages of the page cache, where others were before and nobody has cleared them.

    The kernel clears pages by stores unless told otherwise, and stores to code are noticed anyhow.
    """
    rounds = 60 if FULL else 12
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "disk.img")
        with open(path, "wb") as out:
            out.truncate(64 * MIB)
        with Guest(["--cpus", "2", "--memory", "192M", "--disk", path,
                    "--append", "init_on_alloc=0"]) as guest:
            guest.boot()
            guest.output("mke2fs -q /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt")
            guest.output("for i in 1 2 3 4 5 6 7 8; do mkdir /mnt/$i && cp /bin/busybox /mnt/$i/ && "
                         "dd if=/dev/urandom of=/mnt/r$i bs=1k count=$((i * 100)) 2>/dev/null; done")
            guest.output("cd /mnt && sha256sum r? > /run/sums; cd /; umount /mnt")
            guest.output("mount -t ext4 -o ro /dev/vda /mnt && cd /mnt")
            # memory is scarce
            guest.output("mount -t tmpfs -o size=90% none /tmp && dd if=/dev/zero of=/tmp/fill bs=1M "
                         "count=$(awk '/MemAvailable/ { print int($2 / 1024) - 14 }' /proc/meminfo)")
            said = guest.output("n=0; while [ $n -lt %d ]; do n=$((n + 1)); "
                                "dd if=/dev/zero of=/run/junk bs=4k count=$((n * 37 %% 101)) 2>/dev/null; "
                                "echo 3 > /proc/sys/vm/drop_caches; for i in 1 2 3 4 5 6 7 8; do "
                                "./$i/busybox sha256sum -c -s /run/sums || echo $n: sums; "
                                "[ $(./$i/busybox awk 'BEGIN { print 6 * 7 }') = 42 ] || "
                                "echo $n: awk; done; done; cd /" % rounds)
            check_equal(said, "", "what the programs got wrong")
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
    """A download onto a disk and back to the host: each byte passes four rings."""
    with tempfile.TemporaryDirectory() as work, socket.create_server(("127.0.0.1", 0)) as sink:
        source, disk = os.path.join(work, "file"), os.path.join(work, "disk.img")
        with open(source, "wb") as out:
            for _ in range(TRANSFER // MIB):
                out.write(os.urandom(MIB))
        with open(disk, "wb") as out:
            out.truncate(TRANSFER + 64 * MIB)
        want = sha256(source)
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *a: Quiet(*a, directory=work))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        received = []
        threading.Thread(target=receive, args=(sink, received), daemon=True).start()
        try:
            with Guest(["--cpus", "2", "--memory", "512M", "--net", "user", "--disk", disk],
                       timeout=900) as guest:
                guest.boot()
                check("10.0.2." in guest.output("ip addr show"), "there is no address")
                guest.output("mke2fs -q /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt")
                guest.output("wget -q -O /mnt/file http://10.0.2.2:%d/file" % server.server_port)
                guest.output("umount /mnt && echo 3 > /proc/sys/vm/drop_caches && "
                             "mount -t ext4 /dev/vda /mnt")
                check_equal(guest.output("sha256sum /mnt/file").split()[0], want, "the download")
                guest.output("nc 10.0.2.2 %d < /mnt/file" % sink.getsockname()[1])
                check_equal(received, [want], "what came back to the host")
                guest.output("umount /mnt")
                check_equal(guest.complaints(), [], "complaints of the kernel")
                check_equal(guest.power_off(), 0, "status")
        finally:
            server.shutdown()


def receive(sink, received):
    connection, _ = sink.accept()
    sums = hashlib.sha256()
    with connection:
        while True:
            data = connection.recv(1 << 16)
            if not data:
                break
            sums.update(data)
        received.append(sums.hexdigest())


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


run_cases([
    ("virtio-blk reads and writes", disk_reads_and_writes),
    ("a read-only disk", disk_readonly),
    ("a disk with snapshot keeps its file", disk_snapshot),
    ("parallel requests to a disk", parallel_requests),
    ("a file system with many files", file_system),
    ("programs from a disk", programs_from_disk),
    ("several disks", several_disks),
    ("%d MiB over virtio-net to a disk and back" % (TRANSFER // MIB), network),
    ("a forwarded port", forward),
    ("virtio-rng", random_numbers),
])
