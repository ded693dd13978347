"""QEMU's monitor under `anykvm exec`: registers, dumps, snapshots, live migration."""

import os
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from qemu import Qemu, main                      # noqa: E402

MARK = "anykvm-mark-" + "x" * 40
# Writes memory and checks it as long as the guest lives; /tmp/n counts rounds, /tmp/bad failures.
DIRTIER = ("(n=0; while :; do head -c 2000000 /dev/urandom >/tmp/a; s=$(sha256sum </tmp/a);"
           " cp /tmp/a /tmp/b; [ \"$(sha256sum </tmp/b)\" = \"$s\" ] || echo $n >>/tmp/bad;"
           " n=$((n + 1)); echo $n >/tmp/m; mv /tmp/m /tmp/n; done) >/dev/null 2>&1 & true")


def register(text, name):
    return int(re.search(r"\b%s=\s*([0-9a-f]+)" % name, text).group(1), 16)


def rounds(q):
    """The dirtier's rounds so far; it has found nothing wrong."""
    bad = q.run("cat /tmp/bad 2>/dev/null; true")
    assert not bad, "the guest's memory is wrong, or the kernel speaks: " + bad
    return int(q.run("cat /tmp/n || echo 0").split()[-1])


def more_rounds(q, before):
    end = time.monotonic() + 60
    while rounds(q) < before + 2:
        assert time.monotonic() < end, "the dirtier does not go on"


def information():
    # QEMU 7.2's own walk for "info mem" goes astray with five levels, under TCG too.
    with Qemu("-cpu", "host,la57=off", "-smp", "2", machine="q35", linux="6.1") as q:
        q.shell()
        q.qmp("stop")
        text = q.hmp("info registers -a")
        assert text.count("RIP=") == 2, text
        assert register(text, "CR0") & 0x80000001 == 0x80000001, text
        assert register(text, "EFER") & 0x500 == 0x500, text
        assert "CPU#1" in text and "TR =0040" in text, text
        # The page tables are walked in what KVM_GET_SREGS says: the kernel's text is there,
        # executable or not.
        assert re.search(r"ffffffff[89a-f][0-9a-f]+-ffffffff[0-9a-f]+ [0-9a-f]+ -r", q.hmp("info mem"))
        assert len(q.hmp("info tlb").splitlines()) > 1000
        assert "APIC ID" in q.hmp("info lapic") or "LVT0" in q.hmp("info lapic")
        assert "pin" in q.hmp("info pic")
        assert "0x" in q.hmp("x /4i $pc")
        q.qmp("cont")
        q.send("poweroff\n")
        q.end()


def dump():
    with Qemu("-cpu", "host", machine="q35", linux="6.1") as q:
        q.shell()
        q.run("echo %s >/tmp/mark; for i in 1 2 3 4; do cat /tmp/mark; done >/tmp/marks" % MARK)
        path = q.dir + "/core"
        q.hmp("dump-guest-memory " + path)
        with open(path, "rb") as core:
            data = core.read()
        assert data[:5] == b"\x7fELF\2" and struct.unpack_from("<H", data, 16)[0] == 4
        offset, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
        loads = notes = 0
        for i in range(count):
            kind, _, at, _, _, size = struct.unpack_from("<IIQQQQ", data, offset + 56 * i)
            assert at + size <= len(data), "a segment beyond the file's end"
            loads += size if kind == 1 else 0
            notes += size if kind == 4 else 0
        assert loads >= 256 << 20, "%d bytes of memory" % loads
        assert notes >= 336, "no registers"
        assert MARK.encode() * 1 in data, "the guest's file is not there"
        sums = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
        assert "NT_PRSTATUS" in sums, sums
        q.run("cat /tmp/marks | sha256sum")
        q.quiet()


def snapshots():
    with tempfile.TemporaryDirectory() as folder:
        disk = folder + "/disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "256M"], check=True)
        snapshots_on(disk)


def snapshots_on(disk):
    with Qemu("-cpu", "host", "-smp", "2", "-drive", "if=virtio,format=qcow2,file=" + disk,
              machine="q35", linux="6.1") as q:
        q.shell()
        q.run("head -c 8000000 /dev/urandom >/tmp/data; sha256sum </tmp/data >/tmp/sum")
        q.run("dd if=/tmp/data of=/dev/vda bs=1M conv=fsync 2>/dev/null")
        q.run(DIRTIER)
        more_rounds(q, 0)
        for i in range(2):
            before = rounds(q)
            q.run("echo kept%d >/tmp/state" % i)
            answer = q.hmp("savevm s%d" % i)
            assert not answer, answer
            more_rounds(q, before)          # goes on behind savevm
            q.run("echo lost >/tmp/state; head -c 8000000 /dev/zero >/tmp/data")
            q.run("dd if=/tmp/data of=/dev/vda bs=1M conv=fsync 2>/dev/null")
            answer = q.hmp("loadvm s%d" % i)
            assert not answer, answer
            time.sleep(0.5)
            q.seen = len(q.text)
            found = q.run("cat /tmp/state")
            assert found == "kept%d\n" % i, "after loadvm /tmp/state has %r" % found
            found = q.run("sha256sum </tmp/data | cmp - /tmp/sum && echo same; true")
            assert found == "same\n", "after loadvm a file: %r" % found
            q.run("echo 3 >/proc/sys/vm/drop_caches")
            found = q.run("head -c 8000000 /dev/vda | sha256sum | cmp - /tmp/sum && echo same; true")
            assert found == "same\n", "after loadvm the disk: %r" % found
            more_rounds(q, rounds(q))
        q.send("poweroff\n")
        q.end()


def migrate(machine, cpus, parameters=()):
    options = ("-cpu", "host", "-smp", str(cpus))
    with Qemu(*options, machine=machine, linux="6.1") as q:
        q.shell()
        q.run("head -c 30000000 /dev/urandom >/tmp/data; sha256sum </tmp/data >/tmp/sum")
        q.run("echo marker >/tmp/state")
        q.run(DIRTIER)
        more_rounds(q, 0)
        where = "unix:%s/migration" % q.dir
        with Qemu(*options, "-incoming", where, machine=machine, linux="6.1") as to:
            to.qmp("query-status")
            before = rounds(q)
            for name, value in parameters:
                q.qmp("migrate-set-parameters", **{name: value})
            q.qmp("migrate", uri=where)
            end = time.monotonic() + 120
            while True:
                state = q.qmp("query-migrate")
                if state["status"] not in ("setup", "active", "device"):
                    break
                assert time.monotonic() < end, state
                time.sleep(0.1)
            assert state["status"] == "completed", state
            assert state["ram"]["dirty-sync-count"] >= 2, state
            to.event("RESUME")
            assert to.run("cat /tmp/state") == "marker\n"
            more_rounds(to, before)
            assert to.run("sha256sum </tmp/data | cmp - /tmp/sum && echo same") == "same\n"
            to.send("poweroff\n")
            to.end()
        q.qmp("quit")
        q.end()


if __name__ == "__main__":
    main((
        ("info registers, mem, tlb, lapic, pic", information),
        ("dump-guest-memory", dump),
        ("savevm and loadvm, twice", snapshots),
        ("live migration, q35, 2 CPUs", lambda: migrate("q35", 2)),
        ("live migration, pc, 1 CPU", lambda: migrate("pc", 1, [("max_bandwidth", 50000000)])),
    ), full=(
        ("live migration, split irqchip, 4 CPUs",
         lambda: migrate("q35,kernel-irqchip=split", 4, [("max_bandwidth", 80000000)])),
        ("live migration, microvm", lambda: migrate("microvm", 2)),
    ))
