"""Firmware, boot loaders and memtest86+ in QEMU under `anykvm exec`.

GRUB's image is hybrid: BIOS and UEFI boot it from a disk and from a CD. What it loads is checked by
the kernel (gzip) and by the guest (the sum of a file that the loader brought).

--full: more cards and machines, memtest86+'s whole pass (its last test waits for three minutes), OVMF that builds a GiB of
page tables.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import GUEST, Qemu, main               # noqa: E402

FOLDER = tempfile.TemporaryDirectory()
ISO = FOLDER.name + "/grub.iso"
PAYLOAD = os.urandom(6000000)
SUM = hashlib.sha256(PAYLOAD).hexdigest()
GRUB = """
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
linux /vmlinuz console=ttyS0
initrd /initrd /payload.cpio
boot
"""


def build():
    """The image, and the files of a network boot."""
    top = FOLDER.name + "/iso"
    os.makedirs(top + "/boot/grub")
    with open(top + "/boot/grub/grub.cfg", "w") as config:
        config.write(GRUB)
    shutil.copy(GUEST + "/vmlinuz-6.1", top + "/vmlinuz")
    shutil.copy(GUEST + "/initramfs-6.1.cpio.gz", top + "/initrd")
    with open(FOLDER.name + "/payload", "wb") as payload:
        payload.write(PAYLOAD)
    with open(top + "/payload.cpio", "wb") as archive:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"payload\n", stdout=archive,
                       cwd=FOLDER.name, check=True)
    with open(top + "/boot.ipxe", "w") as script:
        script.write("#!ipxe\nkernel vmlinuz console=ttyS0 initrd=initrd initrd=payload.cpio\n"
                     "initrd initrd\ninitrd payload.cpio\nboot\n")
    subprocess.run(["grub-mkrescue", "-o", ISO, top], check=True, capture_output=True)


def disk():
    return ["-drive", "if=none,id=d,format=raw,snapshot=on,file=" + ISO]


def flash(code):
    variables = code.replace("CODE", "VARS").replace(".secboot", "")
    return ["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/" + code,
            "-drive", "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/" + variables]


def boots(*args, limit=120, **options):
    """Whatever loads it: Linux comes to its shell with the payload intact."""
    options.setdefault("memory", "512")
    with Qemu(*args, "-no-reboot", **options) as q:
        q.expect("Linux version", limit)
        q.shell()
        assert q.run("sha256sum /payload").split()[0] == SUM, "the payload is not what was loaded"
        q.send("poweroff\n")
        q.end()


def ovmf(code, *args, **options):
    options.setdefault("machine", "q35")
    boots(*flash(code), *disk(), "-device", "ide-cd,drive=d", *args, **options)


def network(card, *args, **options):
    """iPXE in the card's ROM loads kernel and files by TFTP."""
    boots("-netdev", "user,id=n,tftp=%s/iso,bootfile=boot.ipxe" % FOLDER.name, "-device",
          card + ",netdev=n,bootindex=1", *args, **options)


def memtest(program, until, *args, **options):
    with Qemu("-kernel", "/boot/memtest86+" + program, "-append", "console=ttyS0,115200", *args,
              memory="32", **options) as q:
        q.expect(until, 600)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", q.text)
        errors = re.findall(r"Errors:\s+(\d+)", text)
        assert errors and set(errors) == {"0"}, "memtest86+ finds errors: %s" % errors
        q.quiet()


BIT_FADE = r"Bit fade"
PASS = r"Pass:\s+1"
SMALL, LARGE = "OVMF_CODE_4M.fd", "OVMF_CODE.fd"

if __name__ == "__main__":
    build()
    main((
        ("GRUB from an IDE disk, pc", partial(
            boots, *disk(), "-device", "ide-hd,drive=d", machine="pc")),
        ("GRUB from an AHCI disk, q35", partial(
            boots, *disk(), "-device", "ide-hd,drive=d", "-cpu", "host", machine="q35")),
        ("GRUB from a CD at an AHCI card, pc", partial(
            boots, *disk(), "-device", "ahci,id=a", "-device", "ide-cd,drive=d,bus=a.0", "-cpu",
            "host", machine="pc")),
        ("iPXE over e1000, pc", partial(network, "e1000", "-cpu", "host", machine="pc")),
        ("OVMF, GRUB, q35, qemu64", partial(ovmf, SMALL, "-cpu", "qemu64")),
        ("OVMF, GRUB, q35, host's CPU", partial(ovmf, LARGE, "-cpu", "host")),
        ("OVMF with SMM, q35, EPYC, 4 CPUs", partial(
            ovmf, "OVMF_CODE_4M.secboot.fd", "-cpu", "EPYC", "-smp", "4", machine="q35,smm=on",
            launcher=["--cpu", "amd"])),
        ("OVMF, q35, Skylake-Client", partial(
            ovmf, SMALL, "-cpu", "Skylake-Client", "-smp", "2", launcher=["--cpu", "intel"])),
        ("memtest86+, its tests 0 to 9", partial(memtest, "x64.bin", BIT_FADE, machine="pc")),
    ), files=["/usr/share/OVMF/OVMF_CODE_4M.fd", "/boot/memtest86+x64.bin", "/usr/bin/xorriso",
              "/usr/bin/grub-mkrescue", "/usr/lib/grub/i386-pc", "/usr/bin/cpio", "/usr/bin/mformat"],
        full=(
        ("iPXE over e1000e, q35", partial(network, "e1000e", "-cpu", "host", machine="q35")),
        ("OVMF, GRUB, pc, host's CPU, 2 CPUs", partial(
            ovmf, LARGE, "-cpu", "host", "-smp", "2", machine="pc")),
        ("memtest86+, a pass, 2 CPUs", partial(
            memtest, "x64.bin", PASS, "-cpu", "host", "-smp", "2", machine="q35")),
        ("memtest86+ of 32 bits, tests 0 to 9, coreduo", partial(
            memtest, "ia32.bin", BIT_FADE, "-cpu", "coreduo", machine="pc",
            launcher=["--cpu", "intel"])),
        ("OVMF with 32-bit PEI, host's CPU", partial(
            ovmf, SMALL, "-cpu", "host", memory="2048", limit=600)),
    ))
