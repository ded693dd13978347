"""Debian packages without root: a private apt state, download and unpack, nothing installed.

The sources are the machine's own (/etc/apt). Where they do not carry the release that the
guests come from, the same mirror is asked for that release.
"""

import glob
import os
import re
import subprocess

RELEASE = "bookworm"


class AptError(Exception):
    pass


class Apt:
    """An apt with its own lists and cache below `state`; `say` reports anything slow."""

    def __init__(self, state, say):
        self.state = os.path.abspath(state)
        self.say = say
        self.fresh = False
        self.source_options = []
        self._names = None
        for sub in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self.state, sub), exist_ok=True)

    def _command(self, tool, *args):
        options = [
            "Dir::State=" + self.state,
            "Dir::State::lists=" + self.state + "/lists",
            "Dir::State::status=/var/lib/dpkg/status",
            "Dir::Cache=" + self.state + "/cache",
            "Debug::NoLocking=1",
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            "APT::Get::AllowUnauthenticated=false",
            *self.source_options,
        ]
        return [tool, "-q"] + [w for o in options for w in ("-o", o)] + list(args)

    def _run(self, tool, *args, cwd=None):
        env = dict(os.environ, LC_ALL="C")
        done = subprocess.run(self._command(tool, *args), cwd=cwd, env=env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode != 0:
            lines = [x for x in done.stderr.splitlines() if x.startswith(("E:", "W:"))]
            raise AptError("%s %s failed: %s" % (tool, args[0], "; ".join(lines) or done.stderr))
        return done.stdout

    def update(self):
        if self.fresh:
            return
        self.say("reading the package lists")
        self._run("apt-get", "update")
        self.fresh = True
        self._names = None

    def use_release(self):
        """Ask the machine's own mirror for RELEASE, whatever release the machine runs."""
        targets = self._run("apt-get", "indextargets", "--format", "$(REPO_URI)").split()
        main = next((u for u in targets if not re.search(r"security", u)), None)
        if not main:
            raise AptError("no package source is configured in /etc/apt")
        path = os.path.join(self.state, "sources.list")
        with open(path, "w") as out:
            for suite in ("", "-updates", "-backports"):
                out.write("deb %s %s%s main\n" % (main, RELEASE, suite))
        self.source_options = ["Dir::Etc::sourcelist=" + path, "Dir::Etc::sourceparts=/dev/null"]
        self.fresh = False
        self.update()

    def newest(self, pattern):
        """The package with the highest version in its name that matches, or None."""
        self.update()
        if self._names is None:
            self._names = self._run("apt-cache", "pkgnames").split()
        matching = [n for n in self._names if re.fullmatch(pattern, n)]
        if not matching:
            return None
        text = self._run("apt-cache", "policy", *matching)
        found = re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", text, re.M)

        def key(name):
            return [int(x) for x in re.findall(r"\d+", name)]
        return max(found, key=key, default=None)

    def candidate(self, name):
        text = self._run("apt-cache", "policy", name)
        match = re.search(r"Candidate: (\S+)", text)
        return match.group(1) if match and match.group(1) != "(none)" else None

    def closure(self, names, leave_out):
        """`names` and everything they depend on, without what matches `leave_out`."""
        self.update()
        text = self._run("apt-cache", "depends", "--recurse", "--no-recommends",
                         "--no-suggests", "--no-conflicts", "--no-breaks",
                         "--no-replaces", "--no-enhances", "--important", *names)
        found = {x for x in text.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", x)}
        return sorted(n for n in found if n in names or not re.fullmatch(leave_out, n))

    def download(self, name, folder):
        """The path of the package file; fetched unless it is there already."""
        os.makedirs(folder, exist_ok=True)
        version = self.candidate(name)
        if not version:
            self.update()
            version = self.candidate(name)
        if not version:
            raise AptError("package %s is not to be had from the sources in /etc/apt" % name)
        stem = "%s_%s_" % (name, version.replace(":", "%3a"))
        there = glob.glob(os.path.join(glob.escape(os.path.join(folder, stem)) + "*.deb"))
        if there:
            return there[0]
        self.say("downloading " + name)
        self._run("apt-get", "download", name, cwd=folder)
        there = glob.glob(os.path.join(glob.escape(os.path.join(folder, stem)) + "*.deb"))
        if not there:
            raise AptError("apt-get downloaded %s but not as %s*.deb" % (name, stem))
        return there[0]


def unpack(deb, folder):
    os.makedirs(folder, exist_ok=True)
    done = subprocess.run(["dpkg-deb", "-x", deb, folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise AptError("%s does not unpack: %s" % (deb, done.stderr.strip()))
