"""Runs a list of boot cases as TAP: each is a function, its name and first doc line the report.

A case returns nothing when it is good, raises GuestError or AssertionError when it is not,
and Skip when the machine cannot run it.
"""

import traceback

from guest import GuestError, missing
from tap import Tap


class Skip(Exception):
    pass


def check(good, text):
    if not good:
        raise GuestError(text)


def check_equal(got, want, what):
    check(got == want, "%s: %r instead of %r" % (what, got, want))


def run_cases(cases):
    """cases: [(name, function of no arguments)]"""
    why = missing()
    if why:
        print("1..0 # SKIP " + why)
        return
    tap = Tap(len(cases))
    for name, function in cases:
        try:
            note = function()
            tap.case(name, True)
            if note:
                tap.note(note)
        except Skip as reason:
            tap.skip(name, str(reason))
        except (GuestError, AssertionError, OSError) as error:
            tap.case(name, False, error)
        except Exception:                           # a mistake in the test itself
            tap.case(name, False, traceback.format_exc())
    tap.finish()
