"""Programs of this machine, `anykvm` among them, in a Linux guest of `anykvm run`."""

import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, "scripts/lib"))

from initramfs import Tree                       # noqa: E402

BUILD = os.environ["ANYKVM_BUILD"]
GUEST = os.environ.get("ANYKVM_GUEST_DIR", os.path.join(TOP, "build/guest"))
PROGRAM = BUILD + "/anykvm"
LIBRARY = BUILD + "/src/exec/libanykvm-exec.so"


def missing(series):
    """Why there is no such guest here, or None."""
    for name in ("vmlinuz-" + series, "initramfs-%s.cpio.gz" % series):
        if not os.path.exists(os.path.join(GUEST, name)):
            return "scripts/guest-assets has not been run"
    return None


def initrd(folder, series, files):
    """The default guest's, with `anykvm exec` and `files` in /t, and the libraries that they need."""
    tree = Tree()
    for path in (PROGRAM, LIBRARY, *files):
        tree.copy("t/" + os.path.basename(path), path)
        text = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+\.so\S*) \(", text):
            tree.copy(library, os.path.realpath(library))
    more, joined = folder + "/more.gz", folder + "/initrd"
    tree.write(more)
    with open(joined, "wb") as out:
        for part in ("%s/initramfs-%s.cpio.gz" % (GUEST, series), more):
            with open(part, "rb") as source:
                out.write(source.read())
    return joined


def run(series, files, script, options):
    """A shell's script as the guest's command; what the console and `anykvm run` have said."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([PROGRAM, "run", *options, "--kernel", GUEST + "/vmlinuz-" + series,
                               "--initrd", initrd(folder, series, files), "--", "sh", "-c", script],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return done.stdout.replace("\r", ""), done.stderr
