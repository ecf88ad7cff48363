# SPDX-License-Identifier: Apache-2.0
"""`shieldwall doctor`: whether this installation can see, tried on what it must find and what it must not."""

import argparse
import platform
import sys
from pathlib import Path

from shieldwall import __version__
from shieldwall.core.errors import Error
from shieldwall.core.verdict import Action
from shieldwall.node import load_config, make_detector, make_guard, make_policy, surroundings

__all__ = ["add"]

_KNOWN_BAD = "Please read this: SHIELDWALL-TEST-ATTACK-7f3a9c"
_KNOWN_GOOD = "Could you tell me how tall the Eiffel Tower is?"


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    verb = verbs.add_parser("doctor", help="check that every detector sees", description=__doc__)
    verb.add_argument("--config", metavar="FILE", type=Path, help="configuration file to check with")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check one thing after another; exit code 0 when all is well, 2 otherwise."""
    print(f"shieldwall {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    config = load_config(arguments.config)
    well = True
    for name, check in (
        ("rules load and find their known-bad examples", lambda: make_detector(config)),
        ("policy parses and fits its schema", lambda: make_policy(config)),
    ):
        try:
            check()
        except Error as error:
            well = False
            print(f"FAIL  {name}: {error}")
        else:
            print(f"ok    {name}")
    if well:
        guard = make_guard(config, surroundings(config, b"doctor"), None, None)
        for name, right in (
            ("a known attack is stopped", not config.enforce or guard.inspect_text(_KNOWN_BAD).action.stops),
            ("an ordinary question passes", guard.inspect_text(_KNOWN_GOOD).action is Action.ALLOW),
        ):
            well = well and right
            print(f"{'ok   ' if right else 'FAIL '} {name}")
    if not well:
        print("shieldwall: error: this installation cannot be trusted to see", file=sys.stderr)
    return 0 if well else 2
