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
        self.update()
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
        found = self.candidates(matching)

        def key(name):
            return [int(x) for x in re.findall(r"\d+", name)]
        return max(found, key=key, default=None)

    def candidates(self, names):
        """name -> version that apt would choose, for those that it knows."""
        text = self._run("apt-cache", "policy", *names)
        return dict(re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))(\S+)", text, re.M))

    def closure(self, names, leave_out):
        """`names` and everything they depend on, without what matches `leave_out`."""
        self.update()
        text = self._run("apt-cache", "depends", "--recurse", "--no-recommends",
                         "--no-suggests", "--no-conflicts", "--no-breaks",
                         "--no-replaces", "--no-enhances", "--important", *names)
        found = {x for x in text.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", x)}
        return sorted(n for n in found if n in names or not re.fullmatch(leave_out, n))

    def download(self, names, folder):
        """The paths of the package files; those that are there already are not fetched."""
        os.makedirs(folder, exist_ok=True)
        self.update()
        versions = self.candidates(names)
        lost = [n for n in names if n not in versions]
        if lost:
            raise AptError("not to be had from the sources in /etc/apt: " + " ".join(lost))

        def there(name):
            stem = "%s_%s_" % (name, versions[name].replace(":", "%3a"))
            return glob.glob(glob.escape(os.path.join(folder, stem)) + "*.deb")
        missing = [n for n in names if not there(n)]
        if missing:
            self.say("downloading " + (" ".join(missing) if len(missing) < 4
                                       else "%d packages" % len(missing)))
            self._run("apt-get", "download", *missing, cwd=folder)
        lost = [n for n in names if not there(n)]
        if lost:
            raise AptError("apt-get download left out: " + " ".join(lost))
        return [there(n)[0] for n in names]


def unpack(deb, folder):
    os.makedirs(folder, exist_ok=True)
    done = subprocess.run(["dpkg-deb", "-x", deb, folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise AptError("%s does not unpack: %s" % (deb, done.stderr.strip()))
