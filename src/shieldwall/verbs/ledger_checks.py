# SPDX-License-Identifier: Apache-2.0
"""`shieldwall ledger verify|monitor`: a log, or a piece of it, held against what its keys and witnesses have signed.

Exit codes: 0 verified; 1 refuted: something is not what was signed, or is not written as it has to be; 2 could not be
told, because something could not be read; 64 usage.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shieldwall.core.entry import read_entry
from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.ledger import (
    Directory,
    Expected,
    Hasher,
    KeyType,
    LogReport,
    Monitor,
    MonitorReport,
    MonitorSettings,
    PlainHasher,
    Policy,
    PosixStorage,
    Problem,
    RangeReport,
    Read,
    ReceiptReport,
    Url,
    VKey,
    is_certain,
    leaf_hash,
    make_hasher,
    parse_policy,
    parse_vkey,
    verify_log,
    verify_range,
    verify_receipt,
)

__all__ = ["add", "hasher_for"]

_VERIFIED, _REFUTED, _UNTOLD = 0, 1, 2
_WORDS = {_VERIFIED: "verified", _REFUTED: "refuted", _UNTOLD: "could not be told"}
_VERIFIES = {_VERIFIED: True, _REFUTED: False, _UNTOLD: None}

_MAX_FILE_BYTES = 4 << 20
"""Greatest receipt, entry, checkpoint or policy that is read; their parsers have closer limits."""

_MOST_SHOWN = 20
_CHECKPOINT = "checkpoint"
_MICROS = 1_000_000
_PLAIN_UP_TO = 200_000
"""Entries that are hashed sooner than the fast hasher is loaded."""


def hasher_for(entries: int) -> Hasher:
    """Who hashes so many entries soonest: the fast hasher takes a second to load."""
    return PlainHasher() if entries <= _PLAIN_UP_TO else make_hasher()


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verbs."""
    verify = verbs.add_parser("verify", help="verify a receipt, a range of entries or a whole log", description=__doc__)
    below = verify.add_subparsers(metavar="WHAT", required=True)

    receipt = below.add_parser("receipt", help="that an entry is in the log, offline")
    receipt.add_argument("receipt", metavar="RECEIPT", type=Path, help=".tlog-proof file")
    receipt.add_argument("entry", metavar="ENTRY", type=Path, help="file with the bytes of the entry")
    _add_trust(receipt)
    receipt.set_defaults(run=_receipt)

    log = below.add_parser("log", help="that the whole log is what its checkpoint says: every entry, every tile")
    _add_log(log)
    log.add_argument("--tiles-only", action="store_true", help="without the entries, which may be for auditors alone")
    _add_trust(log)
    log.set_defaults(run=_log)

    within = below.add_parser("range", help="that the entries from START on, END not among them, are in the log")
    _add_log(within)
    within.add_argument("start", metavar="START", type=int)
    within.add_argument("end", metavar="END", type=int)
    _add_trust(within)
    within.set_defaults(run=_range)

    monitor = verbs.add_parser(
        "monitor", help="look at a log once and hold it against the last look", description=__doc__
    )
    monitor.add_argument("--data", metavar="DIR|URL", default="DATA", help="the log (default ./DATA)")
    monitor.add_argument("--state", metavar="DIR", type=Path, required=True, help="where the last look is remembered")
    monitor.add_argument(
        "--expect",
        metavar="INDEX=FILE",
        type=_expectation,
        action="append",
        default=[],
        help="an entry that was promised at this index; may be repeated",
    )
    monitor.add_argument(
        "--view", metavar="FILE", type=Path, action="append", default=[], help="a checkpoint that others were shown"
    )
    monitor.add_argument("--tiles-only", action="store_true", help="without the entries and so without their times")
    _add_trust(monitor)
    monitor.set_defaults(run=_monitor)


def _add_log(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("log", metavar="LOG", help="a data directory, a directory with checkpoint and tile/, or a URL")


def _add_trust(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--vkey",
        metavar="KEY",
        action="append",
        default=[],
        help="verifier key of the log, as `ledger vkey` prints it; may be repeated",
    )
    verb.add_argument("--policy", metavar="FILE", type=Path, help="tlog-policy file: logs, witnesses, quorum")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(usage_error=verb.error)


def _expectation(text: str) -> tuple[int, Path]:
    index, equals, path = text.partition("=")
    if not (equals and path and index.isascii() and index.isdigit() and len(index) < 19):
        raise argparse.ArgumentTypeError("an expected entry is INDEX=FILE")
    return int(index), Path(path)


def _receipt(arguments: argparse.Namespace) -> int:
    """Verify a receipt; nothing but the three files is read."""
    policy, keys = _trust(arguments)
    receipt, entry = _bytes(arguments.receipt), _bytes(arguments.entry)
    try:
        report = verify_receipt(receipt, entry, policy, logs=keys)
    except InvalidInput as error:
        return _say(arguments, _REFUTED, str(error), {"problem": str(error)}, hint=error.hint)
    code = _code(report.problems)
    text = f"entry {report.index} of {report.origin}, under its checkpoint of {report.size:,} entries"
    return _say(arguments, code, text, report)


def _log(arguments: argparse.Namespace) -> int:
    """Verify a whole log."""
    policy, keys = _trust(arguments)
    with _source(arguments.log) as read:
        hasher = _hasher(read)
        report = verify_log(read, policy, logs=keys, with_entries=not arguments.tiles_only, hasher=hasher)
    text = f"{_named(report)}; hashed again: {report.entries:,} entries, {report.tiles:,} tiles"
    return _say(arguments, _code(report.problems), text, report)


def _range(arguments: argparse.Namespace) -> int:
    """Verify some entries."""
    if not 0 <= arguments.start <= arguments.end:
        arguments.usage_error("START is 0 or more, and END not before it")
    policy, keys = _trust(arguments)
    with _source(arguments.log) as read:
        report = verify_range(read, policy, arguments.start, arguments.end, logs=keys, hasher=_hasher(read))
    text = f"{report.entries:,} entries from {report.start:,} on, of {_named(report)}"
    return _say(arguments, _code(report.problems), text, report)


def _monitor(arguments: argparse.Namespace) -> int:
    """Look once. Checkpoints that contradict each other are kept beside what is remembered."""
    policy, keys = _trust(arguments)
    origins = {key.name for key in keys} or {each.key.name for each in policy.logs}
    if len(origins) != 1:
        arguments.usage_error("give the --vkey of the one log to look at")
    expected = [_expected(index, _bytes(path)) for index, path in arguments.expect]
    views = {str(path): _bytes(path) for path in arguments.view}
    settings = MonitorSettings(with_entries=not arguments.tiles_only)
    with _source(arguments.data, is_new=False) as read, _state(arguments.state) as state:
        monitor = Monitor(read, policy, state, origins.pop(), logs=keys, settings=settings, hasher=_hasher(read))
        report = monitor.look(expected=expected, views=views)
        for each in report.evidence:
            path = f"evidence/{hashlib.sha256(each).hexdigest()}"
            state.write_new(path, each)
            print(f"shieldwall: evidence kept: {arguments.state / path}", file=sys.stderr)
    since = "the first look" if report.old_size is None else f"{report.old_size:,} at the last look"
    text = f"{_named(report)}, {since}; {report.entries:,} new ones read"
    if report.head is not None and not report.is_timed and not report.problems and report.old_size is not None:
        print(
            "shieldwall: times were not checked: no witnesses on both sides of the new entries, or no entries",
            file=sys.stderr,
        )
    return _say(arguments, _code(report.problems), text, report)


def _say(arguments: argparse.Namespace, code: int, text: str, report: object, *, hint: str = "") -> int:
    """Print what was found."""
    if arguments.json:
        print(msgspec.json.encode({"verified": _VERIFIES[code], "report": report}).decode())
        return code
    print(f"{_WORDS[code]}: {text}")
    for name, seen in _witnesses(report):
        print(f"  witness {name} saw it {_when(seen)}")
    problems: Sequence[Problem] = getattr(report, "problems", ())
    for each in problems[:_MOST_SHOWN]:
        print(f"  {each.kind.value}: {each.where}: {each.what}")
    if len(problems) > _MOST_SHOWN:
        print(f"  and {len(problems) - _MOST_SHOWN} more; --json has them all")
    if hint:
        print(f"shieldwall: hint: {hint}", file=sys.stderr)
    return code


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        # A witness may state any time; whether it is plausible others say.
        return f"{seconds} s after 1970"


def _witnesses(report: object) -> Sequence[tuple[str, int]]:
    if isinstance(report, ReceiptReport):
        return report.witnesses
    head = getattr(report, "head", None)
    return () if head is None else tuple(head.witnesses)


def _named(report: LogReport | RangeReport | MonitorReport) -> str:
    if report.head is None:
        return "no checkpoint that the log signed"
    checkpoint = report.head.checkpoint
    return f"{checkpoint.origin}, {checkpoint.size:,} entries"


def _code(problems: Sequence[Problem]) -> int:
    if not problems:
        return _VERIFIED
    return _REFUTED if is_certain(problems) else _UNTOLD


def _trust(arguments: argparse.Namespace) -> tuple[Policy, tuple[VKey, ...]]:
    """Whom to trust, and the keys of the one log in question."""
    keys = []
    for text in arguments.vkey:
        try:
            keys.append(parse_vkey(text))
        except InvalidInput as error:
            arguments.usage_error(f"argument --vkey: {error}")
    if any(key.type is KeyType.COSIGNATURE for key in keys):
        arguments.usage_error("argument --vkey: this is the key of a witness, which goes into a policy")
    if arguments.policy is not None:
        return parse_policy(_bytes(arguments.policy)), tuple(keys)
    if not keys:
        arguments.usage_error("whom to trust is said with --vkey, --policy or both")
    return Policy((), (), (), None), tuple(keys)


def _bytes(path: Path) -> bytes:
    """A whole file. One that is too long is cut behind the greatest its parser takes, which then says so."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _expected(index: int, entry: bytes) -> Expected:
    try:
        stated = read_entry(entry).time
    except InvalidInput as error:
        raise ConfigError(f"what is expected at {index} is no entry: {error}") from None
    return Expected(index, leaf_hash(entry), stated // _MICROS)


@contextmanager
def _source(name: str, *, is_new: bool = True) -> Iterator[Read]:
    """Where the log is read from. Where nothing was ever signed, nothing can be refuted: then it is not told."""
    if "://" in name:
        url = Url(name)
        try:
            yield _read_once(url.read, name, is_new=is_new)
        finally:
            url.close()
        return
    path = Path(name)
    if not path.is_dir():
        raise ConfigError(f"there is no directory {name}")
    path = path / "ledger" if (path / "ledger").is_dir() else path
    yield _read_once(Directory(path).read, name, is_new=is_new)


def _read_once(read: Read, name: str, *, is_new: bool) -> Read:
    """Make sure that there is a checkpoint, and give the same one for as long as the check lasts."""
    data = read(_CHECKPOINT)
    if data is None and is_new:
        raise ConfigError(
            f"there is no checkpoint at {name}", hint="name what `checkpoint` and `tile/` stand in, such as DATA/ledger"
        )
    return lambda path: data if path == _CHECKPOINT else read(path)


def _hasher(read: Read) -> Hasher:
    """What the log says of its size, not verified yet, is good enough to choose by."""
    lines = (read(_CHECKPOINT) or b"").split(b"\n", 2)
    claimed = lines[1] if len(lines) == 3 else b""
    return hasher_for(int(claimed) if claimed.isdigit() and len(claimed) < 19 else 0)


@contextmanager
def _state(path: Path) -> Iterator[PosixStorage]:
    storage = PosixStorage(path, staging=path / ".staging")
    try:
        yield storage
    finally:
        storage.close()
