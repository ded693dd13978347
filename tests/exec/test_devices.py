"""Linux's own drivers for QEMU's AHCI, e1000, e1000e and virtio devices under `anykvm exec`: what the
guest reads, writes, receives and sends is right.

Debian's cloud kernel of 6.12 has AHCI's driver (6.1's has none). The cards' are in the kernel for
real machines: `scripts/guest-assets 6.1-generic`. --full: split irqchip, too; AHCI on both machines;
virtio on pc and with the irqchip in QEMU.
"""

import glob
import hashlib
import http.server
import lzma
import os
import subprocess
import sys
import tempfile
import threading
from functools import partial

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import GUEST, LIMIT, Qemu, main        # noqa: E402

MODULES = "scsi/scsi_common scsi/scsi_mod ata/libata ata/libahci ata/ahci scsi/sd_mod".split()
DISK = 32 << 20
WRITTEN = 8 << 20
GENERIC = "6.1-generic"
TRANSFER = 24 << 20
POSTED = 4 << 20


def modules(package, folder):
    """An initramfs with the driver's modules behind the usual one."""
    names = []
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-x", "-C", folder, "--wildcards", "--strip-components=6"] +
                       ["*/drivers/%s.ko.xz" % x for x in MODULES], stdin=tar.stdout, check=True)
    for i, name in enumerate(MODULES):
        path = "%s/%s.ko.xz" % (folder, name)
        names.append("m%d.ko" % i)
        with lzma.open(path) as source, open(folder + "/" + names[-1], "wb") as to:
            to.write(source.read())
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=folder, check=True,
                             input="\n".join(names).encode(), stdout=subprocess.PIPE).stdout
    with open(GUEST + "/initramfs-6.12.cpio.gz", "rb") as first, open(folder + "/initrd", "wb") as to:
        head = first.read()
        to.write(head + bytes(-len(head) % 4) + archive)
    return folder + "/initrd"


def ahci(irqchip, cpus, machine="q35"):
    controller = [] if machine == "q35" else ["-device", "ich9-ahci,id=a"]
    with tempfile.TemporaryDirectory() as folder:
        package = glob.glob(GUEST + "/debs/linux-image-6.12*cloud-amd64_*.deb")[0]
        data = os.urandom(DISK)
        with open(folder + "/disk", "wb") as disk:
            disk.write(data)
        with Qemu("-kernel", GUEST + "/vmlinuz-6.12", "-initrd", modules(package, folder),
                  "-append", "console=ttyS0", "-cpu", "host", "-smp", str(cpus), "-drive",
                  "if=none,id=d,format=raw,file=%s/disk" % folder, *controller,
                  "-device", "ide-hd,drive=d" + (",bus=a.0" if controller else ""),
                  machine=machine + ",kernel-irqchip=" + irqchip, memory="512") as q:
            q.shell()
            q.run("for i in 0 1 2 3 4 5; do insmod /m$i.ko || break; done")
            q.run("for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/sda ] && break; sleep 1; done")
            written = read_and_write(q, "sda", data)
            assert int(q.run("grep -c ahci /proc/interrupts")) == 1
            q.send("poweroff\n")
            q.end()
        kept(folder + "/disk", data, written)


def read_and_write(q, name, data):
    """Reads the whole disk twice, writes the second MiB and on; the sum of what was written."""
    for _ in range(2):
        said = q.run("sha256sum </dev/" + name)
        assert said.split()[0] == hashlib.sha256(data).hexdigest(), "read: " + said
        q.run("echo 3 >/proc/sys/vm/drop_caches")
    written = q.run("head -c %d /dev/urandom >/tmp/w; sha256sum </tmp/w" % WRITTEN).split()[0]
    q.run("dd if=/tmp/w of=/dev/%s bs=64k seek=16 conv=notrunc,fsync 2>/dev/null" % name)
    return written


def kept(path, data, written):
    with open(path, "rb") as disk:
        now = disk.read()
    assert hashlib.sha256(now[1 << 20:(1 << 20) + WRITTEN]).hexdigest() == written, "written"
    assert now[:1 << 20] == data[:1 << 20] and now[(1 << 20) + WRITTEN:] == \
        data[(1 << 20) + WRITTEN:], "beside what was written"


class Files(http.server.BaseHTTPRequestHandler):
    """GET gives the server's data, POST keeps what comes."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        self.wfile.write(self.server.data)

    def do_POST(self):
        self.server.got = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.data, server.got = os.urandom(TRANSFER), b""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def transfer(q, server):
    """Both directions through QEMU's own network."""
    url = "http://10.0.2.2:%d/" % server.server_port
    got = q.run("wget -q -O /tmp/in %s; sha256sum </tmp/in" % url, 2 * LIMIT).split()[0]
    assert got == hashlib.sha256(server.data).hexdigest(), "what the guest received"
    sent = q.run("head -c %d /dev/urandom | base64 >/tmp/out; wget -q -O /dev/null --post-file=/tmp/out "
                 "%s; sha256sum </tmp/out" % (POSTED, url), 2 * LIMIT).split()[0]
    assert sent == hashlib.sha256(server.got).hexdigest(), "what the guest sent"


def network(card, machine, options):
    """By the card's driver and its interrupts."""
    with serve() as server, Qemu(
            "-cpu", "host", *options.split(), "-netdev", "user,id=n", "-device", card + ",netdev=n",
            machine=machine, linux=GENERIC, memory="512") as q:
        q.shell()
        q.run("modprobe %s; for i in 1 2 3 4 5; do [ -d /sys/class/net/eth0 ] && break; sleep 1; "
              "done; ip link set eth0 up; udhcpc -q -n -s /etc/udhcpc -i eth0" % card)
        assert card in q.run("readlink /sys/class/net/eth0/device/driver"), "the driver"
        transfer(q, server)
        assert int(q.run("grep -c eth0 /proc/interrupts")) > 0, "interrupts"
        q.send("poweroff\n")
        q.end()
        server.shutdown()


def virtio(machine, cpus, series="6.1"):
    """A disk and a network card, on PCI or, on microvm, in virtio's own registers."""
    bus = "device" if machine.startswith("microvm") else "pci"
    data = os.urandom(DISK)
    with tempfile.TemporaryDirectory() as folder, serve() as server:
        with open(folder + "/disk", "wb") as disk:
            disk.write(data)
        with Qemu("-cpu", "host", "-smp", str(cpus), "-netdev", "user,id=n", "-device",
                  "virtio-net-%s,netdev=n" % bus, "-drive", "if=none,id=d,format=raw,file=%s/disk" % folder,
                  "-device", "virtio-blk-%s,drive=d" % bus, "-device", "virtio-rng-" + bus,
                  machine=machine, linux=series, memory="512") as q:
            q.shell()
            q.run("dmesg -n 1")     # no message that the link is up among the sums
            if bus == "device":     # ACPI names these, for which /init does not look
                q.run("modprobe virtio_mmio; modprobe virtio_blk; modprobe virtio-rng; modprobe virtio_net; "
                      "ip link set eth0 up; udhcpc -q -n -s /etc/udhcpc -i eth0")
            written = read_and_write(q, "vda", data)
            transfer(q, server)
            said = q.run("head -c 1000 /dev/hwrng | wc -c")
            assert said == "1000\n", "hwrng: " + said
            q.send("poweroff\n")
            q.end()
        server.shutdown()
        kept(folder + "/disk", data, written)


if __name__ == "__main__":
    cards = [("e1000, pc", partial(network, "e1000", "pc", "-smp 2")),
             ("e1000e, q35", partial(network, "e1000e", "q35", "-smp 2"))]
    there = os.path.exists("%s/vmlinuz-%s" % (GUEST, GENERIC))
    main([("AHCI, 2 CPUs", partial(ahci, "on", 2)), ("virtio, q35, 2 CPUs", partial(virtio, "q35", 2)),
          ("virtio, microvm", partial(virtio, "microvm", 1))] + (cards if there else []),
         full=[("AHCI, split irqchip", partial(ahci, "split", 1)),
               ("AHCI, pc", partial(ahci, "on", 1, "pc")),
               ("virtio, pc, split irqchip", partial(virtio, "pc,kernel-irqchip=split", 4, "6.12")),
               ("virtio, q35, QEMU's irqchip", partial(virtio, "q35,kernel-irqchip=off", 1))] +
         ([("e1000, q35, split irqchip", partial(network, "e1000", "q35,kernel-irqchip=split", "")),
           ("e1000e, pc", partial(network, "e1000e", "pc", ""))] if there else []),
         files=[GUEST + "/vmlinuz-6.12", "/usr/bin/cpio"])
