"""`anykvm run --stats`, `--profile` and `--perf-map`: where a guest's time goes."""

import glob
import os
import re

from guest import kernel_options, run_plain
from cases import check, check_equal, run_cases

WORK = "i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); done; echo done"


def run(*options):
    status, out, err = run_plain(["run", *kernel_options(), *options, "--", "sh", "-c", WORK])
    check_equal((status, out.strip()), (0, "done"), "status and output (%r)" % err[-300:])
    return err


def stats():
    text = run("--stats", "--cpus", "2")
    found = {name: int(n) for n, name in re.findall(r"^ *(\d+) (\w+)$", text, re.M)}
    for name in ("exits", "halt_exits", "anykvm_tlb_miss_empty", "anykvm_blocks_translated",
                 "anykvm_instructions_translated", "anykvm_jumps_chained", "anykvm_insn_CPUID"):
        check(found.get(name, 0) > 0, "%s is missing: %s" % (name, text[-600:]))
    check(found["anykvm_instructions_translated"] > found["anykvm_blocks_translated"],
          "less instructions than blocks: %r" % found)


def profile():
    text = run("--profile")
    check("translated code, kernel" in text and "translation" in text, text[-600:])
    part = text.partition("where the time goes:\n")[2].partition("instructions in C")[0]
    total = sum(float(x) for x in re.findall(r"([\d.]+) %", part))
    check(99 < total < 101, "the shares are %g %% together: %s" % (total, part))
    check(re.search(r"0xffffffff\w+ kernel", text), "no guest code of the kernel: " + text[-600:])


def perf_map():
    before = set(glob.glob("/tmp/perf-*.map"))
    run("--perf-map")
    new = set(glob.glob("/tmp/perf-*.map")) - before
    check_equal(len(new), 1, "new files /tmp/perf-*.map")
    path = new.pop()
    with open(path) as source:
        lines = source.read().splitlines()
    os.unlink(path)
    bad = [x for x in lines if not re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ guest:[0-9a-f]+:(user|kernel)", x)]
    check(not bad, "lines that perf does not take: %r" % bad[:3])
    check(len(lines) > 1000 and any(x.endswith(":user") for x in lines),
          "%d lines only" % len(lines))


run_cases([
    ("--stats: counters of the engine", stats),
    ("--profile: shares, guest addresses", profile),
    ("--perf-map: a line for each block", perf_map),
])
