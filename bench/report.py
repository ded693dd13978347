"""Tables of bench results: medians, ratios, geometric means of groups."""

import math
import statistics
import subprocess


def host():
    with open("/proc/cpuinfo") as info:
        names = [x.partition(":")[2].strip() for x in info if x.startswith("model name")]
    return {"cpu": names[0] if names else "?", "cpus": len(names)}


def commit(top):
    done = subprocess.run(["git", "-C", top, "describe", "--always", "--dirty"],
                          capture_output=True, text=True)
    return done.stdout.strip()


def median(row, target):
    values = [v for v in row.get(target) or [] if v]
    return statistics.median(values) if values else None


def times_slower(row, target, base):
    """How many times slower `target` is than `base`; None if one has no figure."""
    a, b = median(row, target), median(row, base)
    if not a or not b:
        return None
    return a / b if row["unit"] == "s" else b / a


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
                        for i, (c, w) in enumerate(zip(row, widths)))


def table(record, targets):
    head = ["work", "unit", *targets]
    ratios = []
    if {"tcg", "anykvm"} <= set(targets):
        ratios.append(("faster than tcg", "tcg", "anykvm"))
    if {"native", "anykvm"} <= set(targets):
        ratios.append(("slower than native", "anykvm", "native"))
    if {"native", "tcg"} <= set(targets):
        ratios.append(("tcg to native", "tcg", "native"))
    rows = [head + [r[0] for r in ratios]]
    groups = {}
    for name, row in record["results"].items():
        groups.setdefault(row["group"], []).append((name, row))
    for group in sorted(groups):
        for name, row in sorted(groups[group]):
            rows.append([name, row["unit"], *(figure(median(row, t)) for t in targets),
                         *(figure(times_slower(row, a, b)) for _, a, b in ratios)])
        rows.append(["= " + group, "", *("" for _ in targets),
                     *(figure(geometric(times_slower(r, a, b) for _, r in groups[group]))
                       for _, a, b in ratios)])
    return "\n".join(lines(rows))
