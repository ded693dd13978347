"""Wrong options and broken files: one clear line, a status that is not 0, nothing hangs."""

import os
import tempfile

from guest import asset, kernel_options, run_plain
from cases import check, run_cases

LIMIT = 20    # seconds


def refused(arguments, words):
    """`words`: each must occur in the message (any one of a tuple)."""
    status, out, err = run_plain(arguments, timeout=LIMIT)
    check(status != "timeout", "still running after %d s" % LIMIT)
    check(status > 0, "status %s; stderr %r" % (status, err[-300:]))
    lines = err.strip().splitlines()
    check(len(lines) == 1, "%d lines instead of one: %r" % (len(lines), err[-400:]))
    check(not out, "standard output holds %r" % out[-200:])
    for word in words:
        options = (word,) if isinstance(word, str) else word
        check(any(w.lower() in err.lower() for w in options),
              "the message does not name %s: %r" % (" or ".join(options), err))


def main():
    with tempfile.TemporaryDirectory() as work:
        def file(name, data):
            path = os.path.join(work, name)
            with open(path, "wb") as out:
                out.write(data)
            return path
        with open(asset("vmlinuz-6.1"), "rb") as source:
            kernel = source.read(1 << 20)
        empty, noise = file("empty", b""), file("noise", bytes(range(256)) * 64)
        cut, elf = file("cut", kernel[:600]), file("elf", b"\x7fELF\x02\x01\x01" + b"\xff" * 200)
        half = file("half", kernel[:1 << 19])
        locked = file("locked.img", b"\0" * 4096)
        disk = file("disk.img", b"\0" * 4096)
        qcow = file("qcow", b"QFI\xfb\0\0\0\3" + b"\0" * 4096)
        fifo = os.path.join(work, "fifo")
        os.mkfifo(fifo)
        good = kernel_options()
        cases = [
            ("no such option", ["--bogus"], ["bogus"]),
            ("an option without its value", ["--memory"], ["memory"]),
            ("a word too many", ["surplus"], ["surplus"]),
            ("no such kernel", ["--kernel", work + "/none"], ["none"]),
            ("a folder as kernel", ["--kernel", work], [work]),
            ("an empty kernel", ["--kernel", empty], ["empty"]),
            ("noise as kernel", ["--kernel", noise], ["noise"]),
            ("a kernel cut in its header", ["--kernel", cut], ["cut"]),
            ("a kernel cut in half", ["--kernel", half], ["half"]),
            ("a broken ELF file", ["--kernel", elf], ["elf"]),
            ("no such initrd", [*good[:2], "--initrd", work + "/none"], ["none"]),
            ("an initrd without a kernel", ["--initrd", empty], ["initrd"]),
            ("memory 0", [*good, "--memory", "0"], ["memory"]),
            ("memory that is no number", [*good, "--memory", "much"], ["much"]),
            ("memory below zero", [*good, "--memory", "-1G"], ["-1G"]),
            ("memory with a wrong unit", [*good, "--memory", "1Q"], ["1Q"]),
            ("more memory than the host has", [*good, "--memory", "100000G"], ["memory"]),
            ("memory that overflows", [*good, "--memory", "99999999999999999999G"],
             [("memory", "size")]),
            ("too little memory for the kernel", [*good, "--memory", "17M"], ["memory"]),
            ("0 CPUs", [*good, "--cpus", "0"], ["cpus"]),
            ("65 CPUs", [*good, "--cpus", "65"], ["cpus"]),
            ("CPUs that are no number", [*good, "--cpus", "two"], ["cpus"]),
            ("a FIFO as kernel", ["--kernel", fifo], ["not a regular file"]),
            ("a qcow2 image", [*good, "--disk", qcow], ["qcow2"]),
            ("a disk twice", [*good, "--disk", disk, "--disk", disk], ["in use"]),
            ("no command behind --", [*good, "--"], ["no command"]),
            ("a forward by name", [*good, "--net", "user,hostfwd=tcp:localhost:2222-:22"], ["IPv4"]),
            ("no such disk", [*good, "--disk", work + "/none"], ["none"]),
            ("a folder as disk", [*good, "--disk", work], [work]),
            ("an empty disk", [*good, "--disk", empty], ["empty"]),
            ("a wrong word after a disk", [*good, "--disk", locked + ",quick"], ["quick"]),
            ("a network that is not there", [*good, "--net", "tap7"], ["tap7"]),
            ("a wrong forward", [*good, "--net", "user,hostfwd=tcp:nonsense"], ["hostfwd", ]),
            ("a wrong port", [*good, "--net", "user,hostfwd=tcp:127.0.0.1:99999-:22"],
             ["99999"]),
            ("no such accelerator", [*good, "--accel", "warp"], ["warp"]),
            ("no such vendor", [*good, "--cpu", "z80"], ["z80"]),
            ("a window that is none", [*good, "--window", "sometimes"], ["sometimes"]),
            ("a debugger's address that is none", [*good, "--gdb", "1234"], ["1234"]),
            ("a debugger's port that is none", [*good, "--gdb", "tcp::99999"], ["99999"]),
            ("a debugger's socket in no folder", [*good, "--gdb", "unix:%s/no/gdb" % work],
             ["no/gdb"]),
            ("a time that is no number", [*good, "--timeout", "soon"], ["timeout"]),
        ]
        if not (os.path.exists("/dev/kvm") and os.access("/dev/kvm", os.R_OK | os.W_OK)):
            cases.append(("kvm without /dev/kvm", [*good, "--accel", "kvm"], ["/dev/kvm"]))
        run_cases([("run: " + name, lambda a=args, w=words: refused(["run", *a], w))
                   for name, args, words in cases] + [
            ("no such command", lambda: refused(["fly"], ["fly"])),
            ("no command at all", lambda: refused([], [])),
            *[("%s: a word too many" % command,
               lambda c=command: refused([c, "surplus"],
                                         [c.strip("-") + ": unexpected argument 'surplus'"]))
              for command in ("version", "--version", "doctor", "cpuid")],
        ])


if os.path.exists(asset("vmlinuz-6.1")):
    main()
else:
    print("1..0 # SKIP there is no guest kernel")
