"""Microbenchmarks: a guest kernel (micro/micro.c) on each target, and the API's costs (cost.c)."""

import os
import re
import subprocess

from targets import say

LIMIT = 180


def guest_command(build, target):
    kernel = os.path.join(build, "bench/micro/micro.64")
    if target == "anykvm":
        return [build + "/anykvm", "run", "--no-reboot", "--kernel", kernel, "--cpus", "2",
                "--memory", "128M", "--append", "cpus=2"]
    accel = ["-accel", "tcg", "-cpu", "max"] if target == "tcg" else ["-accel", "kvm", "-cpu", "host"]
    command = ["qemu-system-x86_64", *accel, "-nodefaults", "-display", "none", "-serial", "stdio",
               "-no-reboot", "-smp", "2", "-m", "128M", "-device", "isa-debug-exit,iobase=0x5f4",
               "-kernel", kernel, "-append", "cpus=2"]
    return [build + "/anykvm", "exec", "--", *command] if target == "exec" else command


def output(command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.decode("latin1") + done.stderr.decode("latin1")


def run(build, targets, rounds):
    """{name: {"unit": ns, us or KiB, target: [values], "cycles": {target: [values]}}}"""
    found, rates = {}, []
    for _ in range(rounds):
        for target in targets:
            if target in ("native", "window"):   # a kernel has nothing to do with the window
                continue
            text = output(guest_command(build, target))
            lines = re.findall(r"# micro (\S+) (\d+) (\d+) (\d+)", text)
            if not lines or "ok 1 - measured" not in text:
                say("%s: the microbenchmarks did not end:\n  %s"
                    % (target, "\n  ".join(text.splitlines()[-5:])))
            for name, ticks, count, khz in lines:
                row = found.setdefault(name.replace("_", " "), {"unit": "ns", "cycles": {}})
                row["cycles"].setdefault(target, []).append(round(int(ticks) / int(count), 2))
                rates.append(int(khz))
        if "anykvm" in targets or "exec" in targets:
            text = output([build + "/anykvm", "exec", "--", build + "/bench/cost"])
            for name, value, unit in re.findall(r"^cost (.+) \| (\S+) \| (\S+)$", text, re.M):
                found.setdefault(name, {"unit": unit}).setdefault("anykvm", []).append(float(value))
            if "cost metadata" not in text:
                say("the costs of the API were not all measured: " + text[-200:])
    # All have this host's TSC. A guest that was interrupted finds it too fast, never too slow.
    for row in found.values():
        for target, cycles in row.get("cycles", {}).items():
            row[target] = [round(c * 1e6 / min(rates), 2) for c in cycles]
    return found
