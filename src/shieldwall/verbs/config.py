# SPDX-License-Identifier: Apache-2.0
"""`shieldwall config check`: whether a configuration file is right, before a node is started with it."""

import argparse
from pathlib import Path

import msgspec

from shieldwall.node import load_config, make_policy, make_rules

__all__ = ["add"]


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    noun = verbs.add_parser("config", help="check a configuration file", description=__doc__)
    actions = noun.add_subparsers(metavar="VERB", required=True)
    check = actions.add_parser("check", help="read the file, load its rules and its policy, and say what is wrong")
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--json", action="store_true", help="print the whole configuration as it will be used")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check a file; errors name the key and the nearest right one."""
    config = load_config(arguments.file)
    rules = make_rules(config)
    policy = make_policy(config)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(config), indent=2).decode())
    else:
        counted = f"{len(config.upstreams)} upstreams, {len(rules.rules)} rules, policy {policy.digest[:12]}"
        print(f"{arguments.file}: right; {counted}")
    return 0
