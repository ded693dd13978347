"""CPUID faulting: `anykvm exec` in a guest of `anykvm run`, whose processor offers it to Linux."""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../lib"))

from tap import Tap                              # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ["ANYKVM_BUILD"]
GUEST = os.environ.get("ANYKVM_GUEST_DIR", os.path.join(TOP, "build/guest"))
FILES = (BUILD + "/anykvm", BUILD + "/src/exec/libanykvm-exec.so", os.environ["EXEC_CLIENT"])
CASES = "cpuid generated-cpuid run fork handler mask segv".split()


def initrd(folder):
    """The default guest's, with the programs in /t and the libraries that they need."""
    tree, needed = folder + "/tree", set()
    os.makedirs(tree + "/t")
    for path in FILES:
        shutil.copy(path, tree + "/t")
        text = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        needed |= set(re.findall(r"(/\S+\.so\S*) \(", text))
    for path in needed:
        os.makedirs(tree + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, tree + path)
    names = subprocess.run(["find", "."], cwd=tree, capture_output=True, check=True).stdout
    more = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names,
                          stdout=subprocess.PIPE, check=True).stdout
    with gzip.open(GUEST + "/initramfs-6.1.cpio.gz") as first, open(folder + "/initrd", "wb") as to:
        head = first.read()
        to.write(head + bytes(-len(head) % 512) + more)
    return folder + "/initrd"


def main():
    if not os.path.exists(GUEST + "/vmlinuz-6.1") or not shutil.which("cpio"):
        print("1..0 # SKIP scripts/guest-assets has not been run, or there is no cpio")
        return
    tap = Tap(1 + 2 * len(CASES))
    script = "grep -c cpuid_fault /proc/cpuinfo; for v in amd intel; do for c in %s; do " \
             "/t/anykvm exec --cpu $v -- /t/exec-client $c; echo $v $c = $?; done; done" % " ".join(CASES)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([FILES[0], "run", "--cpu", "intel", "--memory", "1G", "--timeout", "240",
                               "--kernel", GUEST + "/vmlinuz-6.1", "--initrd", initrd(folder), "--",
                               "sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
    text = done.stdout.replace("\r", "")
    tap.case("the guest's processor has it", re.search(r"^[1-9]", text, re.M), text + done.stderr)
    for vendor in ("amd", "intel"):
        for case in CASES:
            tap.case("%s, %s" % (case, vendor), "%s %s = 0\n" % (vendor, case) in text,
                     text + done.stderr)
    tap.finish()


if __name__ == "__main__":
    main()
