"""Linux's own driver for AHCI in QEMU under `anykvm exec`: what the guest reads and writes is right.

Debian's cloud kernel of 6.12 has the driver (6.1's has none, and neither has one for e1000:
test_firmware.py lets iPXE use that). --full: split irqchip, too.
"""

import glob
import hashlib
import lzma
import os
import subprocess
import sys
import tempfile
from functools import partial

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import GUEST, Qemu, main               # noqa: E402

MODULES = "scsi/scsi_common scsi/scsi_mod ata/libata ata/libahci ata/ahci scsi/sd_mod".split()
DISK = 32 << 20
WRITTEN = 8 << 20


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


def ahci(irqchip, cpus):
    with tempfile.TemporaryDirectory() as folder:
        package = glob.glob(GUEST + "/debs/linux-image-6.12*cloud-amd64_*.deb")[0]
        data = os.urandom(DISK)
        with open(folder + "/disk", "wb") as disk:
            disk.write(data)
        with Qemu("-kernel", GUEST + "/vmlinuz-6.12", "-initrd", modules(package, folder),
                  "-append", "console=ttyS0", "-cpu", "host", "-smp", str(cpus), "-drive",
                  "if=none,id=d,format=raw,file=%s/disk" % folder, "-device", "ide-hd,drive=d",
                  machine="q35,kernel-irqchip=" + irqchip, memory="512") as q:
            q.shell()
            q.run("for i in 0 1 2 3 4 5; do insmod /m$i.ko || break; done")
            q.run("for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/sda ] && break; sleep 1; done")
            for _ in range(2):
                assert q.run("sha256sum </dev/sda").split()[0] == hashlib.sha256(data).hexdigest()
                q.run("echo 3 >/proc/sys/vm/drop_caches")
            written = q.run("head -c %d /dev/urandom >/tmp/w; sha256sum </tmp/w" % WRITTEN).split()[0]
            q.run("dd if=/tmp/w of=/dev/sda bs=64k seek=16 conv=notrunc,fsync 2>/dev/null")
            assert int(q.run("grep -c ahci /proc/interrupts")) == 1
            q.send("poweroff\n")
            q.end()
        with open(folder + "/disk", "rb") as disk:
            now = disk.read()
        assert hashlib.sha256(now[1 << 20:(1 << 20) + WRITTEN]).hexdigest() == written, "written"
        assert now[:1 << 20] == data[:1 << 20] and now[(1 << 20) + WRITTEN:] == \
            data[(1 << 20) + WRITTEN:], "beside what was written"


if __name__ == "__main__":
    main([("AHCI, 2 CPUs", partial(ahci, "on", 2))],
         full=[("AHCI, split irqchip", partial(ahci, "split", 1))],
         files=[GUEST + "/vmlinuz-6.12", "/usr/bin/cpio"])
