#!/usr/bin/python3
"""Mutation check: does a guest test catch each deliberate fault of the engine?

usage: tests/guest/mutate.py [--work DIR] [--source DIR] [--table FILE] [--jobs N] [NAME...]
       tests/guest/mutate.py --check
       tests/guest/mutate.py --emit NAME FILE

The faults are the rows of mutations.cfg; the build's option -Dfault=NAME switches one on. First
every named test must pass in a build without a fault; then, with each fault, its test must fail.
TAP on standard output; exit status 1 when a fault was not caught.

--check compares the table with the sources and with docs/guest-tests.md, and builds nothing.
--emit is for the build: writes the changed source to FILE and says which file of the sources it
stands for.
"""

import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
LEAST = 30


def run(*args, **more):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def read(path):
    with open(path) as f:
        return f.read()


def table_read(path):
    # Tabs at a value's start are part of it: no stripping by a parser.
    table, row = {}, None
    for line in read(path).split("\n"):
        if line.startswith("["):
            row = table[line[1:-1]] = {}
        elif "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            row[key] = value
    return table


def emit(table, name, path):
    if name not in table:
        sys.exit("'%s' is no fault of mutations.cfg" % name)
    row = table[name]
    text = read(os.path.join(TOP, row["file"]))
    if row["from"] not in text:
        sys.exit("%s: '%s' is not in %s" % (name, row["from"].strip(), row["file"]))
    with open(path, "w") as f:
        f.write(text.replace(row["from"], row["to"], 1))
    print(row["file"])


def check(table, docs):
    """Lines of the table in the documentation, and complaints."""
    bad = []
    text = read(docs)
    if len(table) < LEAST:
        bad.append("%u faults, at least %u are wanted" % (len(table), LEAST))
    for name, row in table.items():
        line = "| %s | `%s` | %s |" % (name.replace("-", " "), row["file"], row["test"])
        if line not in text:
            bad.append("docs/guest-tests.md lacks: " + line)
        if row["from"] not in read(os.path.join(TOP, row["file"])):
            bad.append("%s: '%s' is not in %s" % (name, row["from"].strip(), row["file"]))
    for name in re.findall(r"^\| ([a-z0-9 -]+) \| `src/", text, re.M):
        if name.replace(" ", "-") not in table:
            bad.append("docs/guest-tests.md has a fault that is not in the table: " + name)
    print("1..1\n%sok 1 - %u faults, the sources and the documentation agree" %
          ("not " if bad else "", len(table)))
    for line in bad:
        print("# " + line)
    return 1 if bad else 0


class Bench:
    """A build folder, reconfigured for each fault."""

    def __init__(self, source, work, jobs):
        self.jobs = str(jobs)
        self.build = os.path.join(work, "build")
        self.logs = os.path.join(work, "logs")
        if not os.path.exists(os.path.join(self.build, "build.ninja")):
            result = run("meson", "setup", self.build, source)
            if result.returncode:
                sys.exit(result.stdout)

    def fault(self, name, *targets):
        """None, or why it does not build."""
        for command in (("meson", "configure", "-Dfault=" + name, self.build),
                        ("ninja", "-j", self.jobs, "-C", self.build, "anykvm") + targets):
            result = run(*command)
            if result.returncode:
                return result.stdout
        return None

    def test(self, cpu, *patterns):
        return run(os.path.join(self.build, "anykvm"), "test", "--cpu", cpu, "--jobs", self.jobs,
                   "--logs", self.logs, *patterns)


def main():
    options = argparse.ArgumentParser(description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work", default="/tmp/anykvm-mutate")
    options.add_argument("--source", default=TOP)
    options.add_argument("--table", default=os.path.join(HERE, "mutations.cfg"))
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--check", action="store_true")
    options.add_argument("--emit", nargs=2, metavar=("NAME", "FILE"))
    options.add_argument("names", nargs="*")
    args = options.parse_args()
    table = table_read(args.table)
    if args.emit:
        emit(table, *args.emit)
        return 0
    if args.check:
        return check(table, os.path.join(TOP, "docs", "guest-tests.md"))
    wanted = args.names or list(table)
    bench = Bench(args.source, args.work, args.jobs)
    why = bench.fault("", "guest-tests")
    if why:
        sys.exit(why)
    for cpu in ("intel", "amd"):
        tests = sorted({table[n]["test"] for n in wanted if table[n].get("cpu", "intel") == cpu})
        result = bench.test(cpu, *tests) if tests else None
        if result and result.returncode:
            print("Bail out! a test fails without a fault\n" + result.stdout)
            return 1
    bad = 0
    for number, name in enumerate(wanted, 1):
        row = table[name]
        why = bench.fault(name)
        result = None if why else bench.test(row.get("cpu", "intel"), row["test"])
        caught = result is not None and result.returncode == 1
        bad += not caught
        print("%sok %d - %s: caught by %s" % ("" if caught else "not ", number, name, row["test"]),
              flush=True)
        if not caught:
            print("# " + (why or "the test passed").strip().replace("\n", "\n# "), flush=True)
    bench.fault("")
    print("1..%d" % len(wanted))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
