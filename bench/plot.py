"""One plot of a result, as SVG and as PNG, by gnuplot."""

import shutil
import subprocess

import report

def bars(record):
    """[(name, TCG's speed, ours)] as fractions of native; group ends are None."""
    found = []
    for _, rows in report.grouped(record):
        part = []
        for name, row in rows:
            speeds = [report.times_slower(row, "native", t) for t in ("tcg", report.ours(row))]
            if any(speeds):
                part.append((name, *speeds))
        if part:
            found += part + [None]
    return found[:-1]


def draw(record, base):
    """Writes BASE.svg and BASE.png. Returns what was written, or an error's text."""
    if not shutil.which("gnuplot"):
        return "no plot: gnuplot is not installed (scripts/setup bench)"
    rows = bars(record)
    if not rows:
        return "no plot: there is nothing to compare with native speed"
    values = [v for r in rows if r for v in r[1:] if v]
    low, high = min(values) / 1.5, max(1.5, max(values) * 1.2)
    data = {"TCG": [], "OURS": []}
    for at, row in enumerate(rows):
        if row:
            for name, value, shift in (("TCG", row[1], 0.2), ("OURS", row[2], -0.2)):
                if value:
                    data[name].append((at + shift, value))
    # A bar is a box from the left edge to the value.
    blocks = "".join("$%s << EOD\n%s\nEOD\n" % (n, "\n".join(
        "%g %g %g %g" % (low, value, y - 0.18, y + 0.18) for y, value in d) or "NaN NaN NaN NaN")
        for n, d in data.items())
    plots = ", ".join('$%s using 2:($3+0.18):1:2:3:4 with boxxyerror title "%s" lc rgb "%s"'
                      % x for x in (("TCG", "QEMU TCG", "#c0504d"), ("OURS", "anykvm", "#1f6fb4")))
    height = 130 + 16 * len(rows)
    written = []
    script = blocks
    for kind, terminal in (("svg", "svg size 900,%d font 'sans,11' background '#ffffff'" % height),
                           ("png", "pngcairo size 900,%d font 'sans,9'" % height)):
        path = "%s.%s" % (base, kind)
        script += "\n".join([
            "set terminal " + terminal, 'set output "%s"' % path,
            'set title "%s, %s" noenhanced' % (record["host"]["cpu"], record["commit"]),
            "set logscale x", "set xrange [%g:%g]" % (low, high),
            "set yrange [%d:-1]" % len(rows),
            "set ytics (%s) noenhanced scale 0" % ", ".join(
                '"%s" %d' % (r[0], i) for i, r in enumerate(rows) if r),
            'set xlabel "speed (1: this host without a guest)"', "set grid xtics", "set key tmargin right horizontal",
            "set style fill solid", "set arrow 1 from 1,-1 to 1,%d nohead lw 2" % len(rows),
            "plot " + plots, ""])
        written.append(path)
    done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True)
    if done.returncode:
        return "no plot: gnuplot: " + done.stderr.strip()
    return "plot: " + " ".join(written)
