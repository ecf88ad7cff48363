# SPDX-License-Identifier: Apache-2.0
"""`shieldwall doctor`: whether this installation can see, tried on what it must find and what it must not."""

import argparse
import platform
import sys
from pathlib import Path

from shieldwall import __version__
from shieldwall.core.errors import Error, MissingExtra
from shieldwall.core.sketch import Meaning, derive_key
from shieldwall.core.sketcher import make_sketcher
from shieldwall.core.verdict import Action, Category
from shieldwall.detect import SignatureIndex, load_common
from shieldwall.node import load_config, make_detector, make_guard, make_policy, surroundings

__all__ = ["add"]

_KNOWN_BAD = "Please read this: SHIELDWALL-TEST-ATTACK-7f3a9c"
_KNOWN_TEXT = (
    "Every morning the keeper of the northern lighthouse counts the gulls on the railing, writes their number in a blue"
    " notebook and waters the geranium that his predecessor left behind."
)
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
    well = _sketches() and well
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


def _sketches() -> bool:
    """Whether a known text is found again, changed; compiles the kernels where that was not done yet."""
    key = derive_key(bytes(32), 0)
    try:
        index, sketcher = SignatureIndex(key.id, 16), make_sketcher(key, load_common())
    except MissingExtra as error:
        print(f"--    sketches: {error} ({error.hint})")
        return True
    index.insert(sketcher.sketch(_KNOWN_TEXT), Meaning(id="doctor", category=Category.INTEGRITY, score=0.0))
    well = bool(index.match(sketcher.sketch(f"Well: {_KNOWN_TEXT.upper()} Thanks."))) and not index.match(
        sketcher.sketch(_KNOWN_GOOD)
    )
    print(f"{'ok   ' if well else 'FAIL '} sketches find a known text again")
    return well
