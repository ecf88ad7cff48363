# SPDX-License-Identifier: Apache-2.0
"""`shieldwall keys`: virtual keys for clients and people."""

import argparse
from pathlib import Path

from shieldwall.core.entry import EntryType
from shieldwall.core.errors import DataLocked
from shieldwall.gateway import ROLES
from shieldwall.node import Config, DataDirectory, note, surroundings
from shieldwall.verbs.control import ask

__all__ = ["add"]


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    noun = verbs.add_parser("keys", help="make keys for clients and people", description=__doc__)
    actions = noun.add_subparsers(metavar="VERB", required=True)
    create = actions.add_parser("create", help="make a key and print it, the only time it is shown")
    create.add_argument("name", metavar="NAME", help="who uses it; stands in every record of its requests")
    create.add_argument(
        "--data", metavar="DIR", type=Path, default=Path("DATA"), help="data directory (default ./DATA)"
    )
    create.add_argument("--role", choices=ROLES, default="user", help="what it may do (default user: call models)")
    create.set_defaults(run=run_create)


def run_create(arguments: argparse.Namespace) -> int:
    """Make a key, alone or through the running node; it works at once either way."""
    try:
        with DataDirectory(arguments.data) as data:
            print(_alone(data, arguments.name, arguments.role))
    except DataLocked:
        command = {"do": "keys.create", "name": arguments.name, "role": arguments.role}
        print(ask(arguments.data / "control.sock", command)["key"])
    return 0


def _alone(data: DataDirectory, name: str, role: str) -> str:
    config = Config(data=str(data.path))
    journal = data.journal(config.ledger)
    try:
        key = data.keys().create(name, role=role)
        at = surroundings(config, data.secret("subject"))
        journal.append(*note(EntryType.KEY_CREATE, at, {"name": name, "role": role})).result()
    finally:
        journal.close()
    return key
