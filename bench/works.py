"""The works: scripts in work/, with their facts as comments at the head."""

import os
import re

HERE = os.path.dirname(os.path.realpath(__file__))
FACT = r"^# (group|unit|cpus|image|base|quick|dirty|targets): (\S+)$"


class Work:
    """
    group    where it stands in the table
    unit     `s` unless said: then less is better
    cpus     of the machine
    image    `small`, `bench` or `gcc`: which programs the guest has
    base     the work that does the same with one worker: their ratio is how it scales
    quick    `no`: left out of --quick
    dirty    `yes`: during a live migration, so with the dirty log on (QEMU only)
    targets  which can run it (default all)
    """

    def __init__(self, path):
        with open(path) as source:
            facts = dict(re.findall(FACT, source.read(), re.M))
        self.name = os.path.basename(path)[:-3]
        self.group = facts["group"]
        self.unit = facts.get("unit", "s")
        self.cpus = int(facts.get("cpus", 1))
        self.image = facts.get("image", "bench")
        self.base = facts.get("base")
        self.quick = facts.get("quick", "yes") == "yes"
        self.dirty = facts.get("dirty", "no") == "yes"
        self.targets = facts["targets"].split(",") if "targets" in facts else None

    @property
    def machine(self):
        """Works of one machine run in one guest, after each other."""
        return self.cpus, self.image, self.dirty

    def runs_on(self, target):
        return not self.targets or target in self.targets


def find(only, quick):
    every = [Work(os.path.join(HERE, "work", n)) for n in sorted(os.listdir(HERE + "/work"))
             if n.endswith(".sh")]
    chosen = {w.name for w in every if re.search(only, w.name) and (w.quick or not quick)}
    chosen |= {w.base for w in every if w.name in chosen and w.base}
    return [w for w in every if w.name in chosen]
