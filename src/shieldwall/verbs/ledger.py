# SPDX-License-Identifier: Apache-2.0
"""`shieldwall ledger`: the log of a data directory, and the checks that need nobody's word.

`init`, `append`, `status` and `export` take the lock of the data directory, so they are refused while a node runs on
it. `vkey`, `verify` and `monitor` do not; the last two need no data directory of one's own.
"""

import argparse
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from shieldwall.core.entry import EntryType
from shieldwall.core.errors import ConfigError, InvalidInput, JournalError, LimitExceeded, Overloaded
from shieldwall.core.guard import Surroundings
from shieldwall.ledger import (
    Journal,
    Log,
    Promise,
    begin_log,
    opened_log,
    read_vkeys,
)
from shieldwall.node import Config, DataDirectory, load_config, note, surroundings
from shieldwall.verbs import ledger_checks

__all__ = ["add"]

_MAX_LINE_BYTES = 1 << 20
"""A line goes into the opening of its entry, which the journal holds in one piece."""

_WINDOW = 1024
"""Lines on their way to the disk before the first index is printed: they share its syncs."""


class _Opened(NamedTuple):
    journal: Journal
    log: Log
    at: Surroundings


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the noun and its verbs."""
    noun = verbs.add_parser("ledger", help="keep, prove and verify the log of decisions", description=__doc__)
    below = noun.add_subparsers(metavar="VERB", required=True)

    init = below.add_parser("init", help="begin a log: make its keys, sign its first checkpoint, print its key")
    _add_data(init)
    init.add_argument(
        "--origin", metavar="NAME", help="name of the log, like example.org/log, never used before (default: by chance)"
    )
    init.set_defaults(run=_init)

    vkey = below.add_parser("vkey", help="print the verifier key, for whoever is to verify the log")
    _add_data(vkey)
    vkey.add_argument("--all", action="store_true", help="also the ML-DSA-44 key, which resists quantum computers")
    vkey.set_defaults(run=_vkey)

    append = below.add_parser("append", help="append each line as an entry, print its index once durable, then publish")
    _add_data(append)
    append.add_argument("file", metavar="FILE", help="UTF-8 text, or - for standard input")
    append.set_defaults(run=_append)

    status = below.add_parser("status", help="how far the log has come, all its parts held against each other")
    _add_data(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)

    export = below.add_parser("export", help="write entries and their receipts, for `ledger verify receipt`")
    _add_data(export)
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory to write them to")
    export.add_argument("index", metavar="INDEX", nargs="+", type=_index, help="index of an entry")
    export.set_defaults(run=_export)

    ledger_checks.add(below)


def _add_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--data", metavar="DIR", type=Path, default=Path("DATA"), help="data directory (default ./DATA)")


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError("an index is a whole number from 0 on")
    return int(text)


def _init(arguments: argparse.Namespace) -> int:
    """Begin a log. What the journal has already becomes its first entries."""
    with DataDirectory(arguments.data) as data:
        config = _config(data.path)
        origin = arguments.origin or f"{config.name}/{secrets.token_hex(8)}"
        journal = data.journal(config.ledger)
        try:
            vkeys = begin_log(data.path, origin=origin, time=int(time.time()))
            with opened_log(data.path, journal, hasher=ledger_checks.hasher_for(journal.size)) as log:
                at = surroundings(config, data.secret("subject"))
                fields = {"origin": origin, "vkey": str(vkeys[0])}
                journal.append(*note(EntryType.LEDGER_INIT, at, fields)).result()
                log.publish()
        finally:
            journal.close()
    print(vkeys[0])
    print(f"shieldwall: the log {origin} has begun; give its key to whoever is to verify it", file=sys.stderr)
    return 0


def _vkey(arguments: argparse.Namespace) -> int:
    """Print the verifier key; a node may run."""
    for vkey in read_vkeys(arguments.data)[: None if arguments.all else 1]:
        print(vkey)
    return 0


def _append(arguments: argparse.Namespace) -> int:
    """Append lines. Those before one that cannot be appended stay, and are published."""
    with _input(arguments.file) as file, _opened(arguments.data) as (journal, log, at):
        try:
            _append_lines(file, journal, at)
        finally:
            log.publish()
    return 0


def _append_lines(file: IO[bytes], journal: Journal, at: Surroundings) -> None:
    waiting: deque[Promise] = deque()
    try:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
            try:
                sealed = note(EntryType.LEDGER_APPEND, at, {"line": _text(line)})
                waiting.append(_take(journal, sealed, waiting))
            except InvalidInput as error:
                raise InvalidInput(
                    f"line {number}: {error}", hint="the lines before it are appended; go on with this one"
                ) from None
            if len(waiting) >= _WINDOW:
                print(waiting.popleft().result())
    finally:
        for promise in waiting:
            print(promise.result())
        sys.stdout.flush()


def _take(journal: Journal, sealed: tuple[bytes, bytes], waiting: deque[Promise]) -> Promise:
    """Hand an entry to the journal; where it takes no more, wait for the disk."""
    while True:
        try:
            return journal.append(*sealed)
        except Overloaded:
            if not waiting:
                raise
            print(waiting.popleft().result())


def _text(line: bytes) -> str:
    if len(line) > _MAX_LINE_BYTES:
        raise LimitExceeded(f"it is over {_MAX_LINE_BYTES} bytes")
    try:
        return line.removesuffix(b"\n").decode()
    except UnicodeDecodeError:
        raise InvalidInput("it is not UTF-8") from None


def _status(arguments: argparse.Namespace) -> int:
    """Say how far the log has come. What does not fit together is an error."""
    with _opened(arguments.data) as (_, log, _):
        status = log.status()
    if arguments.json:
        members = ("origin", "sequenced", "published", "witnessed")
        print(msgspec.json.encode({name: getattr(status, name) for name in members}).decode())
    else:
        print(f"origin     {status.origin}")
        print(f"sequenced  {status.sequenced:>12,}  durable in the journal")
        print(f"published  {status.published:>12,}  under the signed checkpoint")
        print(f"witnessed  {status.witnessed:>12,}  under a checkpoint that witnesses cosigned")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Write entries and receipts, after it is on record which."""
    folder: Path = arguments.out
    with _opened(arguments.data) as (journal, log, at):
        size = journal.size
        for index in arguments.index:
            if index >= size:
                raise InvalidInput(f"there is no entry {index}, the log has {size}")
        entries = {index: next(journal.entries(index))[1] for index in arguments.index}
        fields = {"entries": " ".join(map(str, entries))}
        journal.append(*note(EntryType.LEDGER_EXPORT, at, fields)).result()
        log.publish()
        proofs = {index: log.proof(index) for index in entries}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, proof in proofs.items():
            if proof is None:
                raise JournalError(f"entry {index} is not under a checkpoint")  # publish has returned: it is
            (folder / f"{index}.entry").write_bytes(entries[index])
            (folder / f"{index}.tlog-proof").write_bytes(proof)
            print(folder / f"{index}.tlog-proof")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from None
    return 0


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The log of a data directory and what is needed to record in it."""
    read_vkeys(path)  # a directory without a log is told before anything is made in it
    with DataDirectory(path) as data:
        config = _config(path)
        journal = data.journal(config.ledger)
        try:
            with opened_log(path, journal, hasher=ledger_checks.hasher_for(journal.size)) as log:
                yield _Opened(journal, log, surroundings(config, data.secret("subject")))
        finally:
            journal.close()


@contextmanager
def _input(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115  closed below: errors of the caller are not errors of opening
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _config(data: Path) -> Config:
    path = data / "config.toml"
    return load_config(path if path.exists() else None, {"data": str(data)})
