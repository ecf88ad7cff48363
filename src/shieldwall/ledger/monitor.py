# SPDX-License-Identifier: Apache-2.0
"""Watches a log over time: it remembers the last checkpoint it saw, and the next one has to be its continuation.

A verifier sees a log as it is now; a log that is rewritten is as consistent as before. Who remembers notices: fewer
entries than before (rollback), another tree of the same name (split view, also against what witnesses saw), an entry
that was promised and never came (omission), one that is dated to before the witnesses saw the log without it
(back-dating), and a log that stands still. New entries are read, hashed and proved, each once.

Shares the formats with the writer and nothing else.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from shieldwall.core.entry import read_entry
from shieldwall.core.errors import ConfigError, Error, InvalidInput, JournalCorrupt
from shieldwall.ledger.audit import MAX_SKEW_S, Head, Problem, ProblemKind, TreeReader, open_head
from shieldwall.ledger.audit_range import check_range, check_tiles
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.keys import VKey
from shieldwall.ledger.merkle import (
    Hasher,
    PlainHasher,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
    tree_root,
)
from shieldwall.ledger.merkle import Read as ReadHashes
from shieldwall.ledger.source import CHECKPOINT, Read
from shieldwall.ledger.storage import Storage
from shieldwall.ledger.tiles import TileReader
from shieldwall.ledger.trust import Policy

__all__ = ["Expected", "Monitor", "MonitorReport", "Settings", "look"]

_MICROS: Final = 1_000_000
_PLAIN = PlainHasher()

_MOST_TOLD = 100
"""Entries with a wrong time told one by one in a report."""

_SHOWS_ANOTHER = "the log signed another tree of this name: keep both checkpoints, they prove it to anyone"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a monitor looks at, and what it lets pass."""

    with_entries: bool = True
    """Read the entries too; their bundles may need an auditor's key. Without, back-dating is not seen."""
    max_skew_s: int = MAX_SKEW_S
    """How far the time of an entry may lie outside the times of the witnesses around it, seconds."""
    max_age_s: int = 3600
    """Age of the witnesses' latest times from which a log is said to stand still, seconds. Public witnesses may show a
    checkpoint an hour late."""
    merge_s: int = 60
    """How long after its promise an entry has to be in the log, seconds."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a figure makes no sense."""
        if min(self.max_skew_s, self.max_age_s, self.merge_s) < 0:
            raise ConfigError("the times of a monitor are not below 0")


class Expected(msgspec.Struct, frozen=True):
    """An entry somebody was promised."""

    index: int
    leaf: bytes
    """Its leaf hash."""
    time: int
    """When it was promised, seconds since the Unix epoch."""


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a log found."""

    head: Head | None
    """The checkpoint served now; None where there is none that the log signed."""
    old_size: int | None
    """Entries at the last look; None at the first."""
    entries: int
    """New entries that were read and proved."""
    is_timed: bool
    """Whether the times of new entries could be held against witnesses on both sides. Without cosignatures, at the
    first look, or without entries, they could not: no problem then says nothing about back-dating."""
    problems: tuple[Problem, ...]
    """Empty: the log is what it was, and what was added is in order."""
    evidence: tuple[bytes, ...]
    """Signed checkpoints that contradict each other, to be kept and shown."""
    kept: bytes | None
    """What to give to the next look. It moves on where the new checkpoint continues the last one and could be read."""


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered, as JSON."""

    seen: bytes
    """The last checkpoint, signed by the log."""
    witnessed: bytes | None
    """The last one that the quorum had cosigned; while a quorum stalls it is behind, and still bounds times."""


class _Dates:
    """Holds the times of new entries against those of the witnesses before and after them."""

    def __init__(self, reader: TreeReader, skew_s: int, old: Head | None, new: Head) -> None:
        self._reader = reader
        self._skew_s = skew_s
        self._after = None if old is None or old.earliest is None else (old.earliest - skew_s) * _MICROS
        self._before = None if new.latest is None else (new.latest + skew_s) * _MICROS
        self._found = 0
        self.is_both = self._after is not None and self._before is not None

    def check(self, index: int, data: bytes) -> None:
        """Look at a proved entry."""
        try:
            stated = read_entry(data).time
        except InvalidInput as error:
            self._add(ProblemKind.FORMAT, index, str(error))
            return
        if self._after is not None and stated < self._after:
            early_s = (self._after - stated) // _MICROS + self._skew_s
            self._add(ProblemKind.TIME, index, f"it is dated {early_s} s before the witnesses saw the log without it")
        if self._before is not None and stated > self._before:
            late_s = (stated - self._before) // _MICROS + self._skew_s
            self._add(ProblemKind.TIME, index, f"it is dated {late_s} s after the witnesses saw it")

    def end(self) -> None:
        """Tell how many were not told one by one: they must not fill the report, or the look would never end."""
        if self._found > _MOST_TOLD:
            more = self._found - _MOST_TOLD
            self._reader.add(ProblemKind.TIME, CHECKPOINT, f"{more} more entries have a wrong time, or none")

    def _add(self, kind: ProblemKind, index: int, what: str) -> None:
        self._found += 1
        if self._found <= _MOST_TOLD:
            self._reader.add(kind, f"entry {index}", what)


class _Look:
    """One look."""

    def __init__(self, read: Read, policy: Policy, logs: Sequence[VKey], settings: Settings, hasher: Hasher) -> None:
        self.read = read
        self.policy = policy
        self.logs = logs
        self.settings = settings
        self.hasher = hasher
        self.reader = TreeReader(read)
        self.evidence: list[bytes] = []
        self.add = self.reader.add

    def open(self, data: bytes, where: str = CHECKPOINT) -> Head | None:
        """Take a checkpoint as the policy has it."""
        head, problems = open_head(data, self.policy, self.logs)
        for each in problems:
            self.add(each.kind, where, each.what)
        return head

    def hashes(self, size: int) -> ReadHashes:
        """Hashes of the tree, as served."""
        return TileReader(self.read, hasher=self.hasher).at(size)

    def continues(self, old: Head, new: Head, where: str) -> bool:
        """Whether the new tree begins with the old one; what is found otherwise stands in the problems.

        A tile that was damaged is told from a log that was rewritten: only where the tiles served are proved to lie in
        the new tree, and still give another root for the old size, the log is said to have two faces.
        """
        before, after = old.checkpoint, new.checkpoint
        if before.size == after.size:
            found = before.root
            same = before.root == after.root
        else:
            try:
                hashes = self.hashes(after.size)
                found = tree_root(before.size, hashes)
                proof = prove_consistency(before.size, after.size, hashes)
            except Error as error:
                self.add(_kind(error), where, str(error))
                return False
            try:
                check_consistency(before.size, found, after.size, after.root, proof)
            except InvalidInput:
                what = f"the tiles served do not lead from {before.size} entries to the root of {after.size}"
                self.add(ProblemKind.TILE, where, what)
                return False
            same = found == before.root
        if not same:
            self.add(ProblemKind.SPLIT_VIEW, where, _SHOWS_ANOTHER)
            self.evidence += [old.note, new.note]
        return same

    def compare(self, old: Head, new: Head) -> bool:
        """Hold the checkpoint served against the last one."""
        if new.checkpoint.size < old.checkpoint.size:
            what = f"it shows {new.checkpoint.size} entries, and showed {old.checkpoint.size} before"
            self.add(ProblemKind.ROLLBACK, CHECKPOINT, what)
            self.evidence += [old.note, new.note]
            return False
        return self.continues(old, new, CHECKPOINT)

    def compare_view(self, name: str, data: bytes, new: Head, now: float) -> None:
        """Hold the checkpoint served against one that somebody else was shown."""
        view = self.open(data, name)
        if view is None:
            return
        if view.checkpoint.size <= new.checkpoint.size:
            self.continues(view, new, name)
        elif view.latest is None or now - view.latest > self.settings.merge_s:
            what = f"it was shown {view.checkpoint.size} entries, we are shown {new.checkpoint.size}"
            self.add(ProblemKind.STALE, name, what)
            self.evidence += [view.note, new.note]

    def check_entries(self, start: int, old: Head | None, new: Head) -> tuple[int, bool, bool]:
        """Read, prove and date what was added since `start`.

        Args:
            start: Entries at the last look.
            old: The last witnessed checkpoint, at or before that.
            new: The one served.

        Returns:
            How many entries, whether all could be read, and whether there were times on both sides.
        """
        dates = _Dates(self.reader, self.settings.max_skew_s, old, new)
        end = new.checkpoint.size
        count = check_range(self.reader, self.read, new.checkpoint, start, end, hasher=self.hasher, visit=dates.check)
        dates.end()
        return count, count == end - start, dates.is_both

    def check_expected(self, expected: Sequence[Expected], new: Head, now: float) -> None:
        """Look for entries that were promised."""
        checkpoint = new.checkpoint
        hashes = self.hashes(checkpoint.size)
        for each in expected:
            where = f"entry {each.index}"
            if each.index >= checkpoint.size:
                seen = now if new.latest is None else new.latest
                if seen - each.time > self.settings.merge_s:
                    what = f"it was promised {seen - each.time:.0f} s ago and is not in the log"
                    self.add(ProblemKind.OMISSION, where, what)
                continue
            self._check_promise(each, checkpoint, hashes)

    def check_age(self, new: Head, now: float) -> None:
        """A log that shows the same old checkpoint for ever hides all that came since."""
        if new.latest is not None and now - new.latest > self.settings.max_age_s:
            what = f"the witnesses saw it {now - new.latest:.0f} s ago, and nothing since"
            self.add(ProblemKind.STALE, CHECKPOINT, what)

    def _check_promise(self, each: Expected, checkpoint: Checkpoint, hashes: ReadHashes) -> None:
        where = f"entry {each.index}"
        try:
            (found,) = hashes([(0, each.index)])
            proof = prove_inclusion(each.index, checkpoint.size, hashes)
        except Error as error:
            self.add(_kind(error), where, str(error))
            return
        try:
            check_inclusion(found, each.index, checkpoint.size, checkpoint.root, proof)
        except InvalidInput:
            self.add(ProblemKind.TILE, where, "the tiles served do not lead from it to the root")
            return
        if found != each.leaf:
            self.add(ProblemKind.OMISSION, where, "another entry is in the place that was promised")


def look(  # noqa: PLR0913  a log, what is known of it, and how to look
    read: Read,
    policy: Policy,
    last: bytes | None = None,
    *,
    logs: Sequence[VKey] = (),
    expected: Sequence[Expected] = (),
    views: Mapping[str, bytes] | None = None,
    settings: Settings | None = None,
    hasher: Hasher = _PLAIN,
    now: float | None = None,
) -> MonitorReport:
    """Look at a log once.

    Args:
        read: Gives the bytes at a path.
        policy: Whom to trust.
        last: `MonitorReport.kept` of the last look; None at the first, which believes what it sees.
        logs: Keys of the one log in question; empty for the logs of the policy.
        expected: Entries that have to be there.
        views: Checkpoints that others were shown, such as `<monitoring prefix>/<hash>/checkpoint` of the witnesses, by
            a name for the report. To be fetched before this call.
        settings: What to look at.
        hasher: Who hashes.
        now: Seconds since the Unix epoch; by default the time of this machine.

    Raises:
        ConfigError: No log is trusted, or `last` is not of this log. Nothing else: it is in the report.
    """
    this = _Look(read, policy, logs, settings or Settings(), hasher)
    now = time.time() if now is None else now
    old, witnessed = _recall(this, last)
    data = this.reader.read_checkpoint()
    new = None if data is None else this.open(data)
    count, is_timed, kept = 0, False, last
    if new is not None:
        is_whole = old is None or this.compare(old, new)
        for name, note in (views or {}).items():
            this.compare_view(name, note, new, now)
        if is_whole:
            start = old.checkpoint.size if old is not None else 0
            is_whole = check_tiles(this.reader, read, new.checkpoint, start, hasher=hasher)
            if is_whole and this.settings.with_entries:
                count, is_whole, is_timed = this.check_entries(start, witnessed, new)
            this.check_expected(expected, new, now)
        this.check_age(new, now)
        if is_whole:
            latest = new if new.witnesses else witnessed
            kept = msgspec.json.encode(_Kept(new.note, latest.note if latest is not None else None))
    return MonitorReport(
        head=new,
        old_size=old.checkpoint.size if old is not None else None,
        entries=count,
        is_timed=is_timed,
        problems=tuple(this.reader.problems),
        evidence=tuple(dict.fromkeys(this.evidence)),
        kept=kept,
    )


class Monitor:
    """Looks at one log again and again; what it saw last is durable, below `monitor/` of its storage.

    Args:
        read: Gives the bytes at a path.
        policy: Whom to trust.
        storage: Where the last checkpoint is kept. Lost, the next look is a first one, and says so.
        origin: Name of the log.
        logs: Keys of that log; empty for those of the policy.
        settings: What to look at.
        hasher: Who hashes.
        clock: Seconds since the Unix epoch.
    """

    def __init__(  # noqa: PLR0913  a log, where to remember it, and how to look
        self,
        read: Read,
        policy: Policy,
        storage: Storage,
        origin: str,
        *,
        logs: Sequence[VKey] = (),
        settings: Settings | None = None,
        hasher: Hasher = _PLAIN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        keys = tuple(logs) or tuple(each.key for each in policy.logs)
        self._logs = tuple(key for key in keys if key.name == origin)
        if not self._logs:
            raise ConfigError("no key of the log to be watched is known", hint="list it in the trust policy")
        self._read = read
        self._policy = policy
        self._storage = storage
        self._path = f"monitor/{hashlib.sha256(origin.encode()).hexdigest()}"
        self._settings = settings
        self._hasher = hasher
        self._clock = clock

    def look(self, *, expected: Sequence[Expected] = (), views: Mapping[str, bytes] | None = None) -> MonitorReport:
        """Look once, and remember; see `look`. Raises JournalError where it cannot be remembered."""
        last = self._storage.read(self._path)
        report = look(
            self._read,
            self._policy,
            last,
            logs=self._logs,
            expected=expected,
            views=views,
            settings=self._settings,
            hasher=self._hasher,
            now=self._clock(),
        )
        if report.kept is not None and report.kept != last:
            # Where another process was faster it has looked too, and the next look starts from what it saw.
            self._storage.compare_and_swap(self._path, last, report.kept)
        return report


def _recall(this: _Look, last: bytes | None) -> tuple[Head | None, Head | None]:
    """Read what was kept: the last checkpoint, and the last witnessed one. Both were verified when they were new."""
    if last is None:
        return None, None
    try:
        kept = msgspec.json.decode(last, type=_Kept)
    except msgspec.DecodeError:
        raise ConfigError("what the monitor remembers cannot be read", hint=_ANEW) from None
    old, _ = open_head(kept.seen, this.policy, this.logs)
    if old is None:
        raise ConfigError("the checkpoint seen last is not of this log, or its key is not trusted", hint=_ANEW)
    return old, None if kept.witnessed is None else open_head(kept.witnessed, this.policy, this.logs)[0]


_ANEW = "list the old key of the log too; or begin anew, and compare the two checkpoints by hand"


def _kind(error: Error) -> ProblemKind:
    if isinstance(error, JournalCorrupt):
        return ProblemKind.WITHHELD
    return ProblemKind.FORMAT if isinstance(error, InvalidInput) else ProblemKind.UNREACHABLE
