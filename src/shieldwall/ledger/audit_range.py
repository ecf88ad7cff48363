# SPDX-License-Identifier: Apache-2.0
"""Checks some entries of a log, and that they are all there are of an hour, without reading the rest of it.

A range is cut into subtrees; each is hashed from its entries alone and proved to lie in the tree of the checkpoint. An
hour is the range from the last entry that is surely before it to the first that is surely after it: entries stand in
the order in which they were appended, and a monitor makes sure that the time they state is within a minute of that.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from shieldwall.core.entry import read_entry
from shieldwall.core.errors import Error, InvalidInput, JournalCorrupt
from shieldwall.ledger.audit import MAX_SKEW_S, Head, Problem, ProblemKind, TreeReader, open_head
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.keys import VKey
from shieldwall.ledger.merkle import HASH_BYTES, Frontier, Hasher, PlainHasher, check_subtree, prove_subtree, tree_root
from shieldwall.ledger.source import CHECKPOINT, Read
from shieldwall.ledger.tiles import ENTRIES, WIDTH, Tile, TileReader, changes, read_bundle, width_at
from shieldwall.ledger.trust import Policy

__all__ = ["HOUR_S", "HourReport", "RangeReport", "Visit", "check_range", "check_tiles", "verify_hour", "verify_range"]

HOUR_S = 3600

Visit = Callable[[int, bytes], None]
"""Called with index and bytes of each entry that was proved, in order."""

_PIECE = 1024
"""Entries proved in one go. They are held in memory meanwhile: a few MiB for entries of ours."""

_SLACK_S = 2 * MAX_SKEW_S
"""Two entries may stand in the other order than their times by so much: each may be off by the greatest skew."""

_MICROS = 1_000_000
_PLAIN = PlainHasher()


class RangeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when the entries [start, end) were checked."""

    head: Head | None
    """None where there is no checkpoint that the log signed; then nothing was checked."""
    start: int
    end: int
    entries: int
    """Entries that were proved to be in the log at their place."""
    problems: tuple[Problem, ...]
    """Empty: all of them were."""


class HourReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when all entries of an hour were checked."""

    head: Head | None
    hour: int
    """When it begins, seconds since the Unix epoch."""
    entries: int
    """Entries whose time is in that hour."""
    by_type: dict[str, int]
    """The same by type."""
    first: int | None
    """Index of the first of them; None where there are none."""
    last: int | None
    """Index of the last."""
    is_over: bool
    """Whether no more can come: an entry stands behind it that is later, or witnesses saw the log after it."""
    problems: tuple[Problem, ...]
    """Empty: these are all the entries of the hour. If it is not over, all so far."""


def verify_range(
    read: Read,
    policy: Policy,
    start: int,
    end: int,
    *,
    logs: Sequence[VKey] = (),
    hasher: Hasher = _PLAIN,
    visit: Visit | None = None,
) -> RangeReport:
    """Check that the entries [start, end) of a log are what its checkpoint says.

    Args:
        read: Gives the bytes at a path.
        policy: Whom to trust.
        start: First entry.
        end: After the last.
        logs: Keys of the one log in question; empty for the logs of the policy.
        hasher: Who hashes.
        visit: Is shown every proved entry.

    Raises:
        ConfigError: No log is trusted, or keys cannot be trusted together.
        InvalidInput: It is no range. All else is in the report.
    """
    if not 0 <= start <= end:
        raise InvalidInput("a range of entries starts at 0 or later and does not end before it starts")
    reader = TreeReader(read)
    head = _open(reader, policy, logs)
    count = 0
    if head is not None and end > head.checkpoint.size:
        size = head.checkpoint.size
        reader.add(ProblemKind.COUNT, f"entry {max(start, size)}", f"the log has {size} entries")
    elif head is not None:
        count = check_range(reader, read, head.checkpoint, start, end, hasher=hasher, visit=visit)
    return RangeReport(head=head, start=start, end=end, entries=count, problems=tuple(reader.problems))


def check_range(
    reader: TreeReader,
    read: Read,
    checkpoint: Checkpoint,
    start: int,
    end: int,
    *,
    hasher: Hasher = _PLAIN,
    visit: Visit | None = None,
) -> int:
    """Prove entries to lie in the tree of a checkpoint. Gives how many were proved; what is wrong is in the reader."""
    size, proved = checkpoint.size, 0
    hashes = TileReader(read, hasher=hasher).at(size)
    for low, high in _pieces(start, end):
        if reader.is_full:
            break
        piece = _hash_piece(reader, low, high, size, hasher, keep=visit is not None)
        if piece is None:
            continue
        entries, root = piece
        where = f"entry {low}" if high == low + 1 else f"entries {low} to {high - 1}"
        try:
            proof = prove_subtree(low, high, size, hashes)
        except JournalCorrupt as error:
            reader.add(ProblemKind.WITHHELD, where, str(error))
            continue
        except Error as error:
            kind = ProblemKind.FORMAT if isinstance(error, InvalidInput) else ProblemKind.UNREACHABLE
            reader.add(kind, where, str(error))
            continue
        try:
            check_subtree(low, high, root, size, checkpoint.root, proof)
        except InvalidInput:
            reader.add(ProblemKind.ENTRY, where, "not what was hashed into the tree, or the tiles beside it are not")
            continue
        proved += high - low
        if visit is not None:
            for index, entry in enumerate(entries, low):
                visit(index, entry)
    return proved


def check_tiles(reader: TreeReader, read: Read, checkpoint: Checkpoint, start: int, *, hasher: Hasher = _PLAIN) -> bool:
    """Prove every tile that a tree has and that of its first `start` entries has not.

    The partial tiles make the root; every full one is hashed, and stands with its hash in the tile above it.

    Returns:
        Whether all are there and are what they should be; what is wrong is in the reader.
    """
    size, before = checkpoint.size, len(reader.problems)
    try:
        if tree_root(size, TileReader(read, hasher=hasher).at(size)) != checkpoint.root:
            reader.add(ProblemKind.ROOT, CHECKPOINT, "its root is not that of the tiles served")
    except JournalCorrupt as error:
        reader.add(ProblemKind.WITHHELD, CHECKPOINT, str(error))
    except Error as error:
        kind = ProblemKind.FORMAT if isinstance(error, InvalidInput) else ProblemKind.UNREACHABLE
        reader.add(kind, CHECKPOINT, str(error))
    above: dict[int, tuple[Tile, bytes | None]] = {}
    for tile in changes(start, size):
        if tile.level == ENTRIES or reader.is_full:
            continue
        row = reader.read_hashes(tile)
        if row is None or tile.width < WIDTH:
            continue
        level, index = tile.level + 1, tile.index // WIDTH
        parent = Tile(level, index, width_at(size, level, index))
        if level not in above or above[level][0] != parent:
            above[level] = (parent, reader.read_hashes(parent))
        for _ in range(8):
            row = hasher.nodes(row)
        hashes, at = above[level][1], tile.index % WIDTH * HASH_BYTES
        if hashes is not None and hashes[at : at + HASH_BYTES] != row:
            reader.add(ProblemKind.TILE, tile.path, f"its hash is not the one in {parent.path}")
    return len(reader.problems) == before


def verify_hour(
    read: Read,
    policy: Policy,
    hour: int,
    *,
    expected: int | None = None,
    logs: Sequence[VKey] = (),
    hasher: Hasher = _PLAIN,
    visit: Visit | None = None,
) -> HourReport:
    """Check that these are all the entries of an hour.

    It holds as far as no entry is dated more than a minute from when it was appended, which `monitor` watches.

    Args:
        read: Gives the bytes at a path.
        policy: Whom to trust.
        hour: When it begins, seconds since the Unix epoch, a multiple of 3600.
        expected: How many entries there have to be, where the operator states it.
        logs: Keys of the one log in question; empty for the logs of the policy.
        hasher: Who hashes.
        visit: Is shown every proved entry of the hour.

    Raises:
        ConfigError: No log is trusted, or keys cannot be trusted together.
        InvalidInput: It is no hour. All else is in the report.
    """
    if hour < 0 or hour % HOUR_S:
        raise InvalidInput("an hour begins at a multiple of 3600 seconds since the Unix epoch")
    reader = TreeReader(read)
    head = _open(reader, policy, logs)
    found = _Hour(reader, hour, visit)
    is_over = False
    if head is not None:
        size = head.checkpoint.size
        bounds = _bounds(reader, read, size, hour)
        if bounds is not None:
            low, high = bounds
            if check_range(reader, read, head.checkpoint, low, high, hasher=hasher, visit=found.take) == high - low:
                found.check_bounds(low, high, size)
            is_over = high < size or (head.latest or 0) > hour + HOUR_S + _SLACK_S
            is_over = is_over or (found.last_time or 0) > (hour + HOUR_S + _SLACK_S) * _MICROS
            if expected is not None and expected != found.entries:
                what = f"{found.entries} entries are in the log, {expected} were stated"
                reader.add(ProblemKind.COUNT, f"hour {hour}", what)
    return HourReport(
        head=head,
        hour=hour,
        entries=found.entries,
        by_type=found.by_type,
        first=found.first,
        last=found.last,
        is_over=is_over,
        problems=tuple(reader.problems),
    )


class _Hour:
    """Counts the entries of an hour, and keeps the times at both ends of what it is shown."""

    def __init__(self, reader: TreeReader, hour: int, visit: Visit | None) -> None:
        self.entries = 0
        self.by_type: dict[str, int] = {}
        self.first: int | None = None
        self.last: int | None = None
        self.first_time: int | None = None
        self.last_time: int | None = None
        self._reader = reader
        self._range = range(hour * _MICROS, (hour + HOUR_S) * _MICROS)
        self._visit = visit

    def take(self, index: int, data: bytes) -> None:
        """Look at a proved entry."""
        try:
            entry = read_entry(data)
        except InvalidInput as error:
            self._reader.add(ProblemKind.FORMAT, f"entry {index}", str(error))
            return
        if self.first_time is None:
            self.first_time = entry.time
        self.last_time = entry.time
        if entry.time in self._range:
            self.entries += 1
            self.by_type[entry.type.value] = self.by_type.get(entry.type.value, 0) + 1
            self.first = index if self.first is None else self.first
            self.last = index
            if self._visit is not None:
                self._visit(index, data)

    def check_bounds(self, low: int, high: int, size: int) -> None:
        """What was read while searching was not proved; now the entries at both ends are."""
        slack = _SLACK_S * _MICROS
        is_early = self.first_time is not None and self.first_time < self._range.start - slack
        is_late = self.last_time is not None and self.last_time > self._range.stop + slack
        if (low > 0 and not is_early) or (high < size and not is_late):
            self._reader.add(ProblemKind.TIME, f"entries {low} to {high - 1}", "they do not reach around the hour")


def _open(reader: TreeReader, policy: Policy, logs: Sequence[VKey]) -> Head | None:
    data = reader.read_checkpoint()
    if data is None:
        return None
    head, problems = open_head(data, policy, logs)
    reader.problems += problems
    return head


def _bounds(reader: TreeReader, read: Read, size: int, hour: int) -> tuple[int, int] | None:
    """Entries to look at: from the last that is surely before the hour to the first that is surely after it."""
    before, after = (hour - _SLACK_S) * _MICROS, (hour + HOUR_S + _SLACK_S) * _MICROS
    try:
        low, high = -1, size
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _time(read, size, middle) < before else (low, middle)
        start, top, high = max(low, 0), low, size
        while high - top > 1:
            middle = (top + high) // 2
            top, high = (top, middle) if _time(read, size, middle) > after else (middle, high)
    except JournalCorrupt as error:
        reader.add(ProblemKind.WITHHELD, f"hour {hour}", str(error))
        return None
    except Error as error:
        kind = ProblemKind.FORMAT if isinstance(error, InvalidInput) else ProblemKind.UNREACHABLE
        reader.add(kind, f"hour {hour}", str(error))
        return None
    return start, min(high + 1, size)


def _time(read: Read, size: int, index: int) -> int:
    """Time of an entry, not proved yet."""
    return read_entry(read_bundle(read, size, index // WIDTH)[index % WIDTH]).time


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range into subtrees, each as large as its place and the rest allow."""
    while start < end:
        width = min(_PIECE, 1 << (end - start).bit_length() - 1, start & -start or _PIECE)
        yield start, start + width
        start += width


def _hash_piece(
    reader: TreeReader, low: int, high: int, size: int, hasher: Hasher, *, keep: bool
) -> tuple[list[bytes], bytes] | None:
    """Entries of a piece and the root over them; None where they cannot be had."""
    frontier = Frontier()
    entries: list[bytes] = []
    for index in range(low // WIDTH, -(-high // WIDTH)):
        tile = Tile(ENTRIES, index, width_at(size, ENTRIES, index))
        found = reader.read_bundle(tile, hasher)
        if found is None:
            return None
        data, hashes = found
        first, last = max(low - index * WIDTH, 0), min(high - index * WIDTH, WIDTH)
        frontier.extend(hashes[first * HASH_BYTES : last * HASH_BYTES], hasher)
        if keep:
            entries += _decode(data)[first:last]
    return entries, frontier.root()


def _decode(data: bytes) -> list[bytes]:
    """Entries of a bundle that was read through: its hashes are already counted."""
    entries, at = [], 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        entries.append(data[start:at])
    return entries
