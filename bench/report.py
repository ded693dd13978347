"""Results: medians, ratios, geometric means of groups, and the floors of the target table."""

import math
import statistics
import subprocess

# Order and titles of the table's parts.
GROUPS = {
    "programs": "interpreters, a database, compressors, a compiler",
    "vectors": "ciphers, floating point, vectors",
    "system": "system calls, pipes, switches, processes, faults",
    "boot": "from the start to the first line of the guest",
    "firmware": "SeaBIOS under QEMU, from its first line to its last",
    "scaling": "more than one vCPU",
    "memory": "memory bandwidth",
    "devices": "disk and network",
    "negative": "what hurts a translator",
}
# Group, against whom, at least so many times faster or at most so many times slower.
FLOORS = (
    ("programs", "tcg", 4.0), ("programs", "native", 3.0),
    ("vectors", "tcg", 25.0), ("vectors", "native", 1.3),
    ("system", "tcg", 4.0), ("system", "native", 4.0),
    ("boot", "tcg", 2.0),
)
LINE_FLOOR = 1.5        # every single line, against tcg
SCALING_FLOOR = 1.8     # two workers against one
# Microbenchmark, unit as recorded, at most.
MICRO_FLOORS = (
    ("cpuid", "ns", 150), ("hypercall", "ns", 150),
    ("port out to user space", "ns", 250), ("port in to user space", "ns", 250),
    ("MMIO write to user space", "ns", 250), ("MMIO read to user space", "ns", 250),
    ("exit: port out", "ns", 250), ("exit: port in", "ns", 250),
    ("exit: MMIO write", "ns", 250), ("exit: MMIO read", "ns", 250),
    ("VM, vCPU, first HLT", "us", 100), ("idle VM", "KiB", 8192),
    ("metadata per GiB", "KiB", 64), ("dirty log per GiB, clean", "us", 20),
)


def host():
    with open("/proc/cpuinfo") as info:
        names = [x.partition(":")[2].strip() for x in info if x.startswith("model name")]
    return {"cpu": names[0] if names else "?", "cpus": len(names)}


def commit(top):
    done = subprocess.run(["git", "-C", top, "describe", "--always", "--dirty"],
                          capture_output=True, text=True)
    return done.stdout.strip()


def median(row, target):
    values = [v for v in row.get(target) or [] if v is not None]
    return statistics.median(values) if values else None


def ours(row):
    """The target that stands for anykvm: `run`, or QEMU under `exec` where only that can do it."""
    return next((t for t in ("anykvm", "exec") if row.get(t)), "window")


def times_slower(row, target, base):
    """How many times slower `target` is than `base`; None if one has no figure."""
    a, b = median(row, target), median(row, base)
    if not a or not b:
        return None
    return a / b if row["unit"] == "s" else b / a


def faster_than_tcg(row):
    return times_slower(row, "tcg", ours(row))


def slower_than_native(row):
    return times_slower(row, ours(row), "native")


def geometric(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def figure(value, digits=3):
    if value is None:
        return "-"
    return "%.*g" % (digits, value) if value < 1000 else "%.0f" % value


def lines(rows):
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                        for i, (c, w) in enumerate(zip(row, widths))).rstrip()


def grouped(record):
    """[(group, [(name, row)])] in the order of the target table."""
    groups = {}
    for name, row in record["results"].items():
        groups.setdefault(row["group"], []).append((name, row))
    order = list(GROUPS) + sorted(set(groups) - set(GROUPS))
    return [(g, sorted(groups[g])) for g in order if g in groups]


def means(rows):
    """(faster than tcg, slower than native): geometric means over [(name, row)]."""
    return (geometric(faster_than_tcg(r) for _, r in rows),
            geometric(slower_than_native(r) for _, r in rows))


def scaling(record, target):
    """{name: how many times faster than the work that it is the parallel form of}"""
    found = {}
    for name, row in record["results"].items():
        base = record["results"].get(row.get("base"))
        if base:
            a, b = median(base, target), median(row, target)
            found[name] = a / b if a and b else None
    return found


def verdict(value, bound, at_least):
    if value is None:
        return "no figure"
    return "met" if (value >= bound if at_least else value <= bound) else "MISSED"


def floors(record):
    """[(what, wanted, got, verdict)]"""
    found = []
    for group, rows in grouped(record):
        faster, slower = means(rows)
        for name, base, bound in FLOORS:
            if name != group:
                continue
            got = faster if base == "tcg" else slower
            found.append((group + (" against TCG" if base == "tcg" else " against native"),
                          (">= %g" if base == "tcg" else "<= %g") % bound, figure(got),
                          verdict(got, bound, base == "tcg")))
    every = [(faster_than_tcg(r), n) for n, r in record["results"].items() if faster_than_tcg(r)]
    if every:
        worst, name = min(every)
        found.append(("every line against TCG, worst: " + name, ">= %g" % LINE_FLOOR,
                      figure(worst), verdict(worst, LINE_FLOOR, True)))
    two = {n: v for n, v in scaling(record, "anykvm").items() if v}
    if two:
        got = geometric(two.values())
        found.append(("2 vCPUs, parallel work", ">= %g" % SCALING_FLOOR, figure(got),
                      verdict(got, SCALING_FLOOR, True)))
    micro = record.get("micro") or {}
    for name, unit, bound in MICRO_FLOORS:
        row = micro.get(name)
        if row:
            got = median(row, "anykvm")
            found.append((name, "<= %g %s" % (bound, unit), figure(got),
                          verdict(got, bound, False)))
    return found


def table(record, targets):
    head = ["work", "unit", *targets, "faster than TCG", "slower than native", ""]
    rows = [head]
    for group, members in grouped(record):
        for name, row in members:
            faster = faster_than_tcg(row)
            rows.append([name, row["unit"], *(figure(median(row, t)) for t in targets),
                         figure(faster), figure(slower_than_native(row)),
                         "slow" if faster and faster < LINE_FLOOR else ""])
        faster, slower = means(members)
        rows.append(["= " + group, "", *("" for _ in targets), figure(faster), figure(slower), ""])
    text = list(lines(rows))
    scales = {t: scaling(record, t) for t in targets}
    names = sorted({n for t in targets for n in scales[t]})
    if names:
        text += ["", *lines([["two workers against one", *targets],
                             *([n, *(figure(scales[t].get(n)) for t in targets)]
                               for n in names)])]
    micro = record.get("micro") or {}
    if micro:
        shown = [t for t in ("tcg", "anykvm", "exec", "kvm") if any(t in r for r in micro.values())]
        text += ["", *lines([["micro", "unit", *shown, *(t + ", cycles" for t in shown)],
                             *([n, r["unit"], *(figure(median(r, t)) for t in shown),
                                *(figure(median(r.get("cycles", {}), t)) for t in shown)]
                               for n, r in micro.items())])]
    found = floors(record)
    if found:
        text += ["", *lines([["floor", "wanted", "got", "verdict"], *map(list, found)])]
    return "\n".join(text)
