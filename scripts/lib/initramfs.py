"""Initramfs archives: a tree of files in memory, written as newc cpio, the same bytes each time.

Paths are merged into /usr the way an installed Debian has them, so that packages that
still ship /bin or /lib meet those that ship /usr/bin.
"""

import gzip
import os
import re
import stat
import struct

MERGED = ("bin", "sbin", "lib", "lib32", "lib64")


class Tree:
    """name -> (mode, contents or path of the contents or link target)."""

    def __init__(self, merged=True):
        self.items = {}
        if merged:
            for name in MERGED:
                self.folder("usr/" + name)
                self.link(name, "usr/" + name)

    def _place(self, name, item):
        name = self.where(name)
        parent = os.path.dirname(name)
        if parent and parent not in self.items:
            self.folder(parent)
        self.items[name] = item
        return name

    def where(self, name):
        name = os.path.normpath(name.strip("/"))
        first, slash, rest = name.partition("/")
        if slash and first in MERGED and first in self.items:
            name = "usr/" + name
        return name

    def folder(self, name, mode=0o755):
        return self._place(name, (stat.S_IFDIR | mode, b""))

    def link(self, name, target):
        return self._place(name, (stat.S_IFLNK | 0o777, target.encode()))

    def file(self, name, data, mode=0o644):
        return self._place(name, (stat.S_IFREG | mode, data))

    def copy(self, name, source):
        """One file or link from the disk; its contents are read when they are written."""
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            return self.link(name, os.readlink(source))
        if stat.S_ISDIR(info.st_mode):
            return self.folder(name)
        return self._place(name, (stat.S_IFREG | (0o755 if info.st_mode & 0o100 else 0o644),
                                  source))

    def copy_below(self, top, leave_out=None):
        """Everything below folder `top`, except the names that match `leave_out`."""
        for folder, names, files in os.walk(top):
            names.sort()
            for name in sorted(files + [n for n in names
                                        if os.path.islink(os.path.join(folder, n))]):
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, top)
                if not (leave_out and re.fullmatch(leave_out, inside)):
                    self.copy(inside, path)

    def resolve(self, name):
        """Follow links inside the tree; the final name, or None if it leads nowhere."""
        name = self.where(name)
        for _ in range(16):
            item = self.items.get(name)
            if item is None:
                return None
            if not stat.S_ISLNK(item[0]):
                return name
            target = item[1].decode()
            name = self.where(target if target.startswith("/")
                              else os.path.join(os.path.dirname(name), target))
        return None

    def data(self, name):
        contents = self.items[name][1]
        if isinstance(contents, str):
            with open(contents, "rb") as source:
                return source.read()
        return contents

    def write_folder(self, top):
        """The tree on disk, for a chroot."""
        os.makedirs(top, exist_ok=True)
        for name in sorted(self.items):
            mode = self.items[name][0]
            path = os.path.join(top, name)
            if stat.S_ISDIR(mode):
                os.makedirs(path, exist_ok=True)
            elif stat.S_ISLNK(mode):
                os.symlink(self.items[name][1].decode(), path)
            else:
                with open(path, "wb") as out:
                    out.write(self.data(name))
                os.chmod(path, stat.S_IMODE(mode))

    def write(self, path, level=6):
        part = path + ".part"
        with open(part, "wb") as raw, \
                gzip.GzipFile("", "wb", level, raw, mtime=0) as out:
            for number, name in enumerate(sorted(self.items), 1):
                _entry(out, number, name, self.items[name][0], self.data(name))
            _entry(out, 0, "TRAILER!!!", 0, b"")
        os.replace(part, path)


def _entry(out, number, name, mode, data):
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
    out.write(head + b"\0" * (-len(head) % 4))
    out.write(data + b"\0" * (-len(data) % 4))


def elf_needs(data):
    """(names of the shared libraries, interpreter) that an ELF64 file asks for."""
    if data[:5] != b"\x7fELF\x02":
        return [], None
    phoff, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads, dynamic, interpreter = [], None, None
    for i in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, phoff + i * size)
        if kind == 1:
            loads.append((address, offset, length))
        elif kind == 2:
            dynamic = (offset, length)
        elif kind == 3:
            interpreter = data[offset:offset + length].rstrip(b"\0").decode()
    if not dynamic:
        return [], interpreter
    needed, strings = [], 0
    for at in range(dynamic[0], dynamic[0] + dynamic[1], 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == 1:
            needed.append(value)
        elif tag == 5:
            strings = next(value - a + o for a, o, n in loads if a <= value < a + n)
    names = [data[strings + n:data.index(b"\0", strings + n)].decode() for n in needed]
    return names, interpreter
