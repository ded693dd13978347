"""scripts/lib/initramfs.py writes what cpio reads, with paths merged into /usr."""

import gzip
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(HERE, "..", "lib"), os.path.join(HERE, "..", "..", "scripts", "lib")]
from initramfs import Tree, elf_needs    # noqa: E402
from tap import Tap                      # noqa: E402


def entries(data):
    """[(name, mode, contents)] of a newc archive: a second reader, to check the writer."""
    found, at = [], 0
    while True:
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        assert data[at:at + 6] == b"070701"
        name = data[at + 110:at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], data[at:at + fields[6]]))
        at = (at + fields[6] + 3) & ~3


def main():
    tap = Tap(8)
    with tempfile.TemporaryDirectory() as work:
        tree = Tree()
        tree.file("bin/tool", b"#!x", 0o755)
        tree.file("a/b/c", b"odd")
        tree.link("lib64/ld.so", "../lib/real.so")
        tree.file("usr/lib/real.so", b"y")
        path = os.path.join(work, "x.gz")
        tree.write(path)
        first = open(path, "rb").read()
        tree.write(path)
        tap.case("the same tree gives the same bytes", first == open(path, "rb").read())
        found = {n: (m, d) for n, m, d in entries(gzip.decompress(first))}
        tap.case("a file in /bin lands in /usr/bin", found.get("usr/bin/tool") == (0o100755, b"#!x"))
        tap.case("/bin is a link", found.get("bin") == (0o120777, b"usr/bin"))
        tap.case("parents come before children",
                 list(found).index("a") < list(found).index("a/b") < list(found).index("a/b/c"))
        tap.case("links resolve inside the tree", tree.resolve("lib64/ld.so") == "usr/lib/real.so")
        tap.case("a link to nowhere is none", tree.resolve("lib64/none") is None)
        top = os.path.join(work, "root")
        tree.write_folder(top)
        done = open(os.path.join(top, "bin/tool"), "rb").read()
        tap.case("the folder holds the same", done == b"#!x")
        needed, interpreter = elf_needs(open("/proc/self/exe", "rb").read())
        tap.case("what an ELF file needs", "libc.so.6" in needed and "ld-linux" in interpreter)
    tap.finish()


main()
