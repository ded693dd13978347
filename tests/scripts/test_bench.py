"""bench/bench and bench/compare refuse in one clear line; no work is run here."""

import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from tap import Tap    # noqa: E402


def run(program, *args):
    return subprocess.run([sys.executable, os.path.join(TOP, "bench", program), *args],
                          capture_output=True, text=True, timeout=60)


def main():
    tap = Tap(13)

    def refused(done, status, words):
        lines = [x for x in done.stderr.splitlines() if not x.startswith("usage: ")]
        tap.case(words, done.returncode == status and len(lines) == 1 and words in lines[0] and
                 not done.stdout, "status %d: %s" % (done.returncode, done.stderr))

    with tempfile.TemporaryDirectory() as folder:
        def file(name, text):
            with open(os.path.join(folder, name), "w") as out:
                out.write(text)
            return os.path.join(folder, name)
        refused(run("bench", "--only", "["), 2, "--only [: no regular expression: ")
        refused(run("bench", "--rounds", "0"), 2, "--rounds 0: at least one")
        refused(run("bench", "--rounds", "-2"), 2, "--rounds -2: at least one")
        refused(run("bench", "--targets", "tcg,warp"), 2, "'warp' is none of native, tcg, ")
        refused(run("bench", "--targets", ""), 2, "'' is none of native, tcg, ")
        refused(run("bench", "--build", folder), 1, "there is no %s/anykvm: run `make`" % folder)
        row = {"unit": "s", "anykvm": [1.0]}
        good = file("good", json.dumps({"results": {"lua": row}}))
        slow = file("slow", json.dumps({"results": {"lua": {**row, "anykvm": [2.0]}}}))
        refused(run("compare", folder + "/none", good), 2, "none: No such file or directory")
        refused(run("compare", good, folder), 2, folder + ": Is a directory")
        refused(run("compare", good, file("text", "hello")), 2, "text: no result of `make bench`: ")
        refused(run("compare", good, file("list", "[]")), 2, "list: no result of `make bench`: ")
        done = run("compare", good, slow, "--limit", "5")
        tap.case("what became slower", done.returncode == 1 and "slower: lua" in done.stderr,
                 done.stdout + done.stderr)
        for program, options in (("bench", 5), ("compare", 2)):
            done = run(program, "--help")
            shown = [x for x in done.stdout.splitlines() if x.startswith("  --")]
            tap.case(program + " --help", done.returncode == 0 and
                     done.stdout.count("usage: ") == 1 and len(shown) == options, done.stdout)
    tap.finish()


main()
