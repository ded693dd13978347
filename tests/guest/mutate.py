#!/usr/bin/python3
"""Mutation check: does a guest test catch each deliberate fault of the engine?

usage: tests/guest/mutate.py [--work DIR] [--tests DIR] [--table FILE] [NAME...]

For each row of mutations.cfg the sources are copied, one line is changed, `anykvm` is built, and
the row's guest test must fail. The engine itself carries no switches for this. TAP on standard
output; exit status 1 when a fault was not caught.
"""

import argparse
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))


def run(*args, **more):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def build(folder):
    return run("ninja", "-j2", "-C", os.path.join(folder, "build"), "anykvm")


def prepare(folder):
    """A copy of the sources with a build folder."""
    source = os.path.join(folder, "source")
    shutil.rmtree(source, ignore_errors=True)
    names = run("git", "-C", TOP, "ls-files").stdout.split("\n")
    for name in names:
        if not name or not os.path.exists(os.path.join(TOP, name)):
            continue
        target = os.path.join(source, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(os.path.join(TOP, name), target)
    if not os.path.exists(os.path.join(folder, "build", "build.ninja")):
        result = run("meson", "setup", os.path.join(folder, "build"), source)
        if result.returncode:
            sys.exit(result.stdout)
    result = build(folder)
    if result.returncode:
        sys.exit(result.stdout)
    return source


def check(folder, source, row, tests):
    """(caught, why not)"""
    path = os.path.join(source, row["file"])
    with open(path) as f:
        text = f.read()
    if row["from"] not in text:
        return False, "the line is not there"
    try:
        with open(path, "w") as f:
            f.write(text.replace(row["from"], row["to"], 1))
        result = build(folder)
        if result.returncode:
            return False, "does not build"
        result = run(os.path.join(folder, "build", "anykvm"), "test", "--cpu",
                     row.get("cpu", "intel"), "--dir", tests, "--logs",
                     os.path.join(folder, "logs"), row["test"], timeout=300)
        return result.returncode == 1, "the test passed"
    finally:
        with open(path, "w") as f:
            f.write(text)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", default="/tmp/anykvm-mutate")
    options.add_argument("--table", default=os.path.join(HERE, "mutations.cfg"))
    options.add_argument("--tests", default=os.path.join(TOP, "build", "tests", "guest"),
                         help="folder of the built guest kernels")
    options.add_argument("names", nargs="*")
    args = options.parse_args()
    # Tabs at a value's start are part of it: no stripping by the parser.
    table, name = {}, None
    with open(args.table) as f:
        for line in f:
            line = line.rstrip("\n")
            if line.startswith("["):
                name = line[1:-1]
                table[name] = {}
            elif "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                table[name][key] = value
    wanted = args.names or list(table)
    source = prepare(args.work)
    bad = 0
    for number, name in enumerate(wanted, 1):
        caught, why = check(args.work, source, table[name], args.tests)
        bad += not caught
        print("%sok %d - %s: caught by %s%s" % ("" if caught else "not ", number, name,
                                                table[name]["test"],
                                                "" if caught else "\n# " + why), flush=True)
    print("1..%d" % len(wanted))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
