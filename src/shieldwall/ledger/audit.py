# SPDX-License-Identifier: Apache-2.0
"""Checks a log without trusting who keeps it: a receipt, or the whole log, from a directory or from where it is served.

Shares the formats with the writer and nothing else: every entry is hashed again, every tile is built again from what
lies below it and compared with the one served, and the root must be the one that the log signed and the witnesses
cosigned. What is found is a report; nothing is printed, and a log that cannot be read is never called a clean one.
"""

import enum
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shieldwall.core.entry import read_entry
from shieldwall.core.errors import ConfigError, Error, InvalidInput
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.cosignature import open_checkpoint
from shieldwall.ledger.keys import NotVerified, VKey
from shieldwall.ledger.merkle import EMPTY_ROOT, HASH_BYTES, Hasher, PlainHasher, check_inclusion, leaf_hash, node_hash
from shieldwall.ledger.note import parse_note
from shieldwall.ledger.proof_file import parse_proof, verify_proof
from shieldwall.ledger.source import CHECKPOINT, Read
from shieldwall.ledger.tiles import ENTRIES, WIDTH, Tile, width_at
from shieldwall.ledger.trust import Policy, verify_checkpoint

__all__ = [
    "MAX_PROBLEMS",
    "MAX_SKEW_S",
    "Head",
    "LogReport",
    "Problem",
    "ProblemKind",
    "ReceiptReport",
    "TreeReader",
    "is_certain",
    "open_head",
    "verify_log",
    "verify_receipt",
]

MAX_SKEW_S = 60
"""How far the time of an entry may lie outside the times of the witnesses around it, seconds."""

MAX_PROBLEMS = 1000
"""Where so many were found no more is looked for."""

_MAX_UNREACHED = 3
"""After so many requests that failed the log is given up: each may have taken as long as a request can take."""

_TILES_AT_ONCE = 64
"""Tiles of level 0 hashed upward in one call: half a MiB of hashes."""

_FULL_BYTES = WIDTH * HASH_BYTES
_PLAIN = PlainHasher()


class ProblemKind(enum.StrEnum):
    """What is wrong with a log."""

    UNREACHABLE = "unreachable"
    """It could not be read, so it could not be told. The one kind that is no evidence against the log."""
    FORMAT = "format"
    """Something is not written as it has to be."""
    ORIGIN = "origin"
    """The checkpoint is that of another log."""
    KEY = "key"
    """No trusted key of the log signed, or the signature fails."""
    QUORUM = "quorum"
    """Too few witnesses cosigned, or a cosignature fails."""
    WITHHELD = "withheld"
    """A tile, a bundle or the checkpoint that must be served is not there."""
    ENTRY = "entry"
    """An entry is not the one that was hashed into the tree."""
    TILE = "tile"
    """A tile is not the one its entries or the tiles below it make."""
    ROOT = "root"
    """The tree is not the one that the checkpoint states."""
    ROLLBACK = "rollback"
    """The log shows fewer entries than it did before."""
    SPLIT_VIEW = "split_view"
    """The log signed two trees of which neither begins with the other. Both checkpoints together prove it to anyone."""
    OMISSION = "omission"
    """An entry that was promised is not in the log, or another one is in its place."""
    TIME = "time"
    """An entry states a time that the witnesses contradict: it was back-dated, or dated ahead."""
    COUNT = "count"
    """There are more or fewer entries than stated."""
    STALE = "stale"
    """The log shows an old checkpoint although there is a newer one, or there should be."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    kind: ProblemKind
    where: str
    """Path in the log, `entry <index>`, or the name of a witness."""
    what: str


class Head(msgspec.Struct, frozen=True):
    """A checkpoint that the expected log signed."""

    note: bytes
    checkpoint: Checkpoint
    witnesses: tuple[tuple[str, int], ...]
    """Who cosigned by the policy, and the time each stated, seconds since the Unix epoch. Empty where the quorum is not
    met."""

    @property
    def earliest(self) -> int | None:
        """Time of the middle witness, the earlier of two: one that lies cannot move it beyond the others' times."""
        times = sorted(time for _, time in self.witnesses)
        return times[(len(times) - 1) // 2] if times else None

    @property
    def latest(self) -> int | None:
        """Time of the middle witness, the later of two."""
        times = sorted(time for _, time in self.witnesses)
        return times[len(times) // 2] if times else None


class ReceiptReport(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt that holds."""

    origin: str
    index: int
    size: int
    root: bytes
    witnesses: tuple[tuple[str, int], ...]
    """Who cosigned, and when, seconds since the Unix epoch: the entry is no younger than that."""
    time: int | None
    """What the entry states, microseconds since the Unix epoch; None where it is none of ours."""
    problems: tuple[Problem, ...]
    """At most that the entry is dated later than the witnesses saw it."""


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when a whole log was checked."""

    head: Head | None
    """None where there is no checkpoint that the log signed; then nothing was checked."""
    entries: int
    """Entries that were hashed again."""
    tiles: int
    """Tiles that were built again and compared."""
    problems: tuple[Problem, ...]
    """Empty: the log is what the checkpoint says, all of it."""


def is_certain(problems: Iterable[Problem]) -> bool:
    """Whether a report with these says something about the log: a clean one, or evidence; not merely a bad line."""
    kinds = {each.kind for each in problems}
    return kinds != {ProblemKind.UNREACHABLE}


def verify_receipt(receipt: bytes, entry: bytes, policy: Policy, *, logs: Sequence[VKey] = ()) -> ReceiptReport:
    """Prove, offline, that an entry is in a log that the witnesses of the policy watch.

    Args:
        receipt: The `.tlog-proof` file.
        entry: The entry, its bytes as they are in the log.
        policy: Whom to trust.
        logs: Keys of the one log in question; see `trust.verify_checkpoint`.

    Raises:
        InvalidInput: The receipt cannot be read; NotVerified where it proves nothing, or something else.
    """
    proof = parse_proof(receipt)
    try:
        trusted = verify_proof(proof, leaf_hash(entry), policy, check_inclusion=check_inclusion, logs=logs)
    except NotVerified:
        raise
    except InvalidInput as error:
        raise NotVerified(f"the receipt is not that of this entry: {error}", hint=error.hint) from None
    checkpoint = trusted.checkpoint
    witnesses = tuple((_name(known.name), time) for known, time in trusted.witnesses)
    head = Head(proof.checkpoint, checkpoint, witnesses)
    time, problems = None, []
    try:
        time = read_entry(entry).time
    except InvalidInput:
        pass  # the log of somebody else: its entries may be anything
    else:
        if head.latest is not None and time > (head.latest + MAX_SKEW_S) * 1_000_000:
            ahead_s = time // 1_000_000 - head.latest
            problems = [
                Problem(ProblemKind.TIME, f"entry {proof.index}", f"it is dated {ahead_s} s after the witnesses saw it")
            ]
    return ReceiptReport(
        origin=checkpoint.origin,
        index=proof.index,
        size=checkpoint.size,
        root=checkpoint.root,
        witnesses=witnesses,
        time=time,
        problems=tuple(problems),
    )


def open_head(data: bytes, policy: Policy, logs: Sequence[VKey] = ()) -> tuple[Head | None, list[Problem]]:
    """Read a checkpoint as the policy has it.

    Args:
        data: The note.
        policy: Whom to trust.
        logs: Keys of the one log in question; empty for the logs of the policy.

    Returns:
        The checkpoint where the log signed it, even if the quorum is not met; and what is wrong with it.

    Raises:
        ConfigError: No log is trusted, or keys cannot be trusted together.
    """
    listed = tuple(each.key for each in policy.logs)
    keys = tuple(key for key in logs if key in listed or not listed) if logs else listed
    if not keys:
        raise ConfigError("no log is trusted", hint="give the log's verifier key, or list it in the trust policy")
    try:
        checkpoint = parse_checkpoint(parse_note(data).text)
    except InvalidInput as error:
        return None, [Problem(ProblemKind.FORMAT, CHECKPOINT, str(error))]
    keys = tuple(key for key in keys if key.name == checkpoint.origin)
    if not keys:
        return None, [Problem(ProblemKind.ORIGIN, CHECKPOINT, "it is that of another log")]
    try:
        open_checkpoint(data, keys)
    except InvalidInput as error:
        return None, [Problem(ProblemKind.KEY, CHECKPOINT, str(error))]
    try:
        trusted = verify_checkpoint(policy, data, logs=keys)
    except InvalidInput as error:
        return Head(data, checkpoint, ()), [Problem(ProblemKind.QUORUM, CHECKPOINT, str(error))]
    return Head(data, checkpoint, tuple((_name(known.name), time) for known, time in trusted.witnesses)), []


def verify_log(
    read: Read, policy: Policy, *, logs: Sequence[VKey] = (), with_entries: bool = True, hasher: Hasher = _PLAIN
) -> LogReport:
    """Check a whole log: its signatures, every entry, every tile, the root.

    Memory stays the same however large the log is. What is wrong at one place is told there, and the rest is checked
    all the same, as far as it can be: where a bundle and its tile contradict each other the tile is believed.

    Args:
        read: Gives the bytes at a path (`source.Directory.read`, `source.Url.read`).
        policy: Whom to trust.
        logs: Keys of the one log in question; empty for the logs of the policy.
        with_entries: False where entry bundles are not to be had; then the tiles of level 0 are believed.
        hasher: Who hashes.

    Raises:
        ConfigError: No log is trusted, or keys cannot be trusted together. Nothing else: it is in the report.
    """
    reader = TreeReader(read)
    head = None
    data = reader.read_checkpoint()
    if data is not None:
        head, problems = open_head(data, policy, logs)
        reader.problems += problems
    if head is None:
        return LogReport(head=None, entries=0, tiles=0, problems=tuple(reader.problems))
    walk = _Walk(reader, head.checkpoint.size, hasher, with_entries=with_entries)
    root = walk.root()
    if root is not None and root != head.checkpoint.root:
        reader.add(ProblemKind.ROOT, CHECKPOINT, "its root is not that of the entries and tiles served")
    return LogReport(head=head, entries=walk.entries, tiles=walk.tiles, problems=tuple(reader.problems))


class TreeReader:
    """Reads pieces of a log, and keeps what was wrong with them."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.problems: list[Problem] = []
        self._unreached = 0
        self._bundle: tuple[Tile, tuple[bytes, bytes]] | None = None

    @property
    def is_full(self) -> bool:
        """Whether so many problems were found that the rest does not matter, or the log is not reached any more."""
        return len(self.problems) >= MAX_PROBLEMS or self._unreached >= _MAX_UNREACHED

    def add(self, kind: ProblemKind, where: str, what: str) -> None:
        """Keep a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(kind, where, what))
        self._unreached += kind is ProblemKind.UNREACHABLE

    def read_checkpoint(self) -> bytes | None:
        """Give the checkpoint, or None where it cannot be had."""
        return self._get(CHECKPOINT, CHECKPOINT)

    def read_hashes(self, tile: Tile) -> bytes | None:
        """Give the hashes of a tile, 32 bytes each, or None where it cannot be had."""
        found = self._find(tile)
        if found is None:
            return None
        served, data = found
        if len(data) != served.width * HASH_BYTES:
            self.add(ProblemKind.FORMAT, served.path, f"it has {len(data)} bytes, not {served.width * HASH_BYTES}")
            return None
        return data[: tile.width * HASH_BYTES]

    def read_bundle(self, tile: Tile, hasher: Hasher) -> tuple[bytes, bytes] | None:
        """Give the bytes of a bundle, which may be fuller than asked, and the leaf hashes asked for; or None."""
        # A range that starts inside a bundle asks for the same one again and again.
        if self._bundle is not None and self._bundle[0] == tile:
            return self._bundle[1]
        found = self._find(tile)
        if found is None:
            return None
        served, data = found
        try:
            hashes = hasher.bundle(data)
        except InvalidInput as error:
            self.add(ProblemKind.FORMAT, served.path, str(error))
            return None
        if len(hashes) != served.width * HASH_BYTES:
            count = len(hashes) // HASH_BYTES
            self.add(ProblemKind.FORMAT, served.path, f"it has {count} entries, not {served.width}")
            return None
        self._bundle = (tile, (data, hashes[: tile.width * HASH_BYTES]))
        return self._bundle[1]

    def _find(self, tile: Tile) -> tuple[Tile, bytes] | None:
        """A partial tile may be gone once the full one is there."""
        if tile.width < WIDTH:
            data = self._get(tile.path, "")
            if data is not None:
                return tile, data
        data = self._get(tile.full.path, tile.path)
        return None if data is None else (tile.full, data)

    def _get(self, path: str, missed: str) -> bytes | None:
        """Read a path; where nothing is there, `missed` is what is withheld, unless it is empty."""
        try:
            data = self._read(path)
        except InvalidInput as error:
            self.add(ProblemKind.FORMAT, path, str(error))
            return None
        except Error as error:
            self.add(ProblemKind.UNREACHABLE, path, str(error))
            return None
        if data is None and missed:
            self.add(ProblemKind.WITHHELD, missed, "it belongs to the log and is not there")
        return data


class _Walk:
    """Builds the tree of a log again, from left to right and from the leaves up."""

    def __init__(self, reader: TreeReader, size: int, hasher: Hasher, *, with_entries: bool) -> None:
        self.entries = 0
        self.tiles = 0
        self._reader = reader
        self._size = size
        self._hasher = hasher
        self._with_entries = with_entries
        self._rows: list[bytearray] = []
        """By level, the hashes that are not in a full tile yet."""
        self._begun: list[int] = []
        """By level, the index of the tile they begin."""

    def root(self) -> bytes | None:
        """Walk, and give the root; None where something was missing without which there is none."""
        for index in range(-(-self._size // WIDTH)):
            row = self._leaves(index)
            if row is None or self._reader.is_full:
                return None
            self._push(0, row, _TILES_AT_ONCE)
        level = 0
        while level < len(self._rows):
            self._push(level, b"", 1)
            row = bytes(self._rows[level])
            if level and row:
                self._compare(level, self._begun[level], row)
            level += 1
        return self._top()

    def _leaves(self, index: int) -> bytes | None:
        """Leaf hashes of a bundle, compared with those of the tile."""
        width = width_at(self._size, 0, index)
        tile, bundle = Tile(0, index, width), Tile(ENTRIES, index, width)
        served = self._reader.read_hashes(tile)
        found = self._reader.read_bundle(bundle, self._hasher) if self._with_entries else None
        if found is None:
            return served
        hashes = found[1]
        self.entries += width
        if served is None:
            return hashes
        self.tiles += 1
        if hashes != served:
            for place in _differences(hashes, served):
                where = f"entry {index * WIDTH + place}"
                self._reader.add(ProblemKind.ENTRY, where, f"{bundle.path} and {tile.path} do not agree on it")
        return served

    def _push(self, level: int, hashes: bytes, least: int) -> None:
        """Take hashes of a level, and once so many tiles are full, hash them upward."""
        if level == len(self._rows):
            self._rows.append(bytearray())
            self._begun.append(0)
        row = self._rows[level]
        row += hashes
        count = len(row) // _FULL_BYTES
        if count < least:
            return
        full = bytes(row[: count * _FULL_BYTES])
        del row[: count * _FULL_BYTES]
        first = self._begun[level]
        self._begun[level] += count
        if level:
            for number in range(count):
                part = full[number * _FULL_BYTES : (number + 1) * _FULL_BYTES]
                self._compare(level, first + number, part)
        self._push(level + 1, self._up(full, 8), 1)

    def _compare(self, level: int, index: int, hashes: bytes) -> None:
        tile = Tile(level, index, len(hashes) // HASH_BYTES)
        served = self._reader.read_hashes(tile)
        if served is None:
            return
        self.tiles += 1
        for place in _differences(hashes, served):
            self._reader.add(ProblemKind.TILE, tile.path, f"hash {place} is not that of the tile below it")

    def _top(self) -> bytes:
        """Root over what is in no full tile: on each level the parts of a row are powers of two, greatest first."""
        found: bytes | None = None
        for row in self._rows:
            end = width = len(row) // HASH_BYTES
            for height in range(8):
                if width >> height & 1:
                    start = end - (1 << height)
                    part = self._up(bytes(row[start * HASH_BYTES : end * HASH_BYTES]), height)
                    found = part if found is None else node_hash(part, found)
                    end = start
        return EMPTY_ROOT if found is None else found

    def _up(self, hashes: bytes, levels: int) -> bytes:
        for _ in range(levels):
            hashes = self._hasher.nodes(hashes)
        return hashes


def _differences(one: bytes, two: bytes) -> Iterator[int]:
    """Places where two rows of hashes differ."""
    if one != two:
        for start in range(0, len(one), HASH_BYTES):
            if one[start : start + HASH_BYTES] != two[start : start + HASH_BYTES]:
                yield start // HASH_BYTES


def _name(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
