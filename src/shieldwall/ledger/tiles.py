# SPDX-License-Identifier: Apache-2.0
"""The tree in pieces of 256 hashes, so that anyone can check the log by fetching a few small files.

C2SP tlog-tiles: paths, which tiles a tree has, entry bundles, and hashes of subtrees read from tiles. A tile at level l
holds 256 hashes of subtrees of 256^l entries; only the last tile of a level may be partial. A partial tile may be gone
once the full one is there, so a reader falls back to that. Knows nothing of where tiles lie: it is given a function
that reads a path.
"""

import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from shieldwall.core.errors import InvalidInput, JournalCorrupt, LimitExceeded
from shieldwall.ledger.merkle import HASH_BYTES, MAX_SIZE, Buffer, Hasher, Place, PlainHasher, Run
from shieldwall.ledger.merkle import Read as ReadHashes

__all__ = [
    "ENTRIES",
    "MAX_BUNDLE_BYTES",
    "MAX_BUNDLE_ENTRY_BYTES",
    "WIDTH",
    "Tile",
    "TileReader",
    "changes",
    "decode_bundle",
    "encode_bundle",
    "grow",
    "is_in",
    "parse_path",
    "read_bundle",
    "tile_path",
    "tiles",
    "width_at",
]

WIDTH = 256
"""Hashes of a full tile, entries of a full bundle."""

ENTRIES = -1
"""Level of an entry bundle: what lies below the leaf hashes."""

MAX_BUNDLE_ENTRY_BYTES = 65_535
"""Greatest entry a bundle can frame."""

MAX_BUNDLE_BYTES = WIDTH * (2 + MAX_BUNDLE_ENTRY_BYTES)

_HEIGHT = 8
_MAX_LEVEL = 63
_FULL_BYTES = WIDTH * HASH_BYTES
_MAX_PATH_CHARS = 64
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_PATH_HINT = "a path is tile/<level>/<index>[.p/<width>], the index in groups of three digits"

Read = Callable[[str], bytes | None]
"""Gives the bytes at a path, or None where there is nothing."""

_PLAIN = PlainHasher()


class Tile(msgspec.Struct, frozen=True, gc=False):
    """Name of one tile or of one entry bundle."""

    level: int
    """0 to 63, or `ENTRIES`."""
    index: int
    """Place in its level, from 0."""
    width: int = WIDTH
    """Hashes or entries in it, 1 to 256; below 256 it is partial."""

    @property
    def path(self) -> str:
        """Where it is served."""
        return tile_path(self)

    @property
    def full(self) -> "Tile":
        """The full tile at its place."""
        return self if self.width == WIDTH else Tile(self.level, self.index)


def tile_path(tile: Tile) -> str:
    """Give the path of a tile, such as `tile/0/x001/x234/067` or `tile/entries/273.p/112`.

    Raises:
        InvalidInput: Level, index or width is out of range.
    """
    level, index, width = tile.level, tile.index, tile.width
    if not (ENTRIES <= level <= _MAX_LEVEL and 0 <= index <= MAX_SIZE and 1 <= width <= WIDTH):
        raise InvalidInput(f"there is no tile of level {level}, index {index}, width {width}")
    groups = f"{index % 1000:03}"
    while index := index // 1000:
        groups = f"x{index % 1000:03}/{groups}"
    kind = "entries" if level == ENTRIES else level
    return f"tile/{kind}/{groups}" if width == WIDTH else f"tile/{kind}/{groups}.p/{width}"


def parse_path(path: str) -> Tile:
    """Read the path of a tile or bundle; only the one spelling `tile_path` gives is taken.

    Whether a tree has that tile is another question: see `is_in`.

    Raises:
        InvalidInput: It is no such path.
    """
    match = _PATH.fullmatch(path) if len(path) <= _MAX_PATH_CHARS else None
    if match is None:
        raise InvalidInput("this is not the path of a tile", hint=_PATH_HINT)
    kind, groups, partial = match.groups()
    level = ENTRIES if kind == "entries" else int(kind)
    width = WIDTH if partial is None else int(partial)
    index = int(groups.replace("/", "").replace("x", ""))
    if level > _MAX_LEVEL:
        raise InvalidInput(f"level {level} of a tile is over 63", hint=_PATH_HINT)
    if partial is not None and width >= WIDTH:
        raise InvalidInput(f"width {width} of a partial tile is over 255", hint=_PATH_HINT)
    if groups.startswith("x000"):
        raise InvalidInput("the index of a tile starts with a group of zeros", hint=_PATH_HINT)
    if index > MAX_SIZE:
        raise InvalidInput("the index of a tile is over 2^63 - 1", hint=_PATH_HINT)
    return Tile(level, index, width)


def width_at(size: int, level: int, index: int) -> int:
    """Give how many hashes (or entries) a tree of `size` has in a tile, 0 to 256."""
    held = size >> (_HEIGHT * max(level, 0))
    return min(max(held - index * WIDTH, 0), WIDTH)


def is_in(tile: Tile, size: int) -> bool:
    """Say whether everything in the tile belongs to a tree of `size`; partial tiles of smaller trees do."""
    held = width_at(size, tile.level, tile.index)
    return ENTRIES <= tile.level <= _MAX_LEVEL and tile.index >= 0 and 1 <= tile.width <= held


def changes(old: int, new: int) -> Iterator[Tile]:
    """Give what a tree of size `new` needs and one of size `old` has not: bundles, then tiles from level 0 up.

    Raises:
        InvalidInput: A size is out of range, or the tree would shrink.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise InvalidInput(f"a tree does not grow from size {old} to {new}")
    return _changes(old, new)


def _changes(old: int, new: int) -> Iterator[Tile]:
    for level in range(ENTRIES, _HEIGHT):
        before, after = (size >> (_HEIGHT * max(level, 0)) for size in (old, new))
        if before == after:
            # What stands still here stands still above.
            return
        for index in range(before // WIDTH, after // WIDTH):
            yield Tile(level, index)
        if after % WIDTH:
            yield Tile(level, after // WIDTH, after % WIDTH)


def tiles(size: int) -> Iterator[Tile]:
    """Give everything a tree of `size` consists of: bundles, then tiles from level 0 up, in order of index.

    Raises:
        InvalidInput: The size is out of range.
    """
    return changes(0, size)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Frame 1 to 256 entries, each with its length as two bytes, big-endian.

    Raises:
        InvalidInput: There are none or too many; LimitExceeded where one is over 65,535 bytes.
    """
    if not 1 <= len(entries) <= WIDTH:
        raise InvalidInput(f"a bundle has 1 to 256 entries, not {len(entries)}")
    parts: list[bytes] = []
    for number, entry in enumerate(entries):
        if len(entry) > MAX_BUNDLE_ENTRY_BYTES:
            raise LimitExceeded(f"entry {number} of a bundle is over 65,535 bytes", hint="record its digest instead")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int = WIDTH) -> list[bytes]:
    """Read the `width` entries of a bundle, and nothing after them.

    Raises:
        InvalidInput: The bundle is cut, or holds more or fewer entries. The message says at which entry and offset.
    """
    if not 1 <= width <= WIDTH:
        raise InvalidInput(f"a bundle has 1 to 256 entries, not {width}")
    entries: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        if len(entries) == width:
            raise _bundle_error(f"goes on after its {width} entries", width, offset)
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if start > end or offset > end:
            raise _bundle_error("is cut", len(entries), start - 2)
        entries.append(bytes(data[start:offset]))
    if len(entries) < width:
        raise _bundle_error(f"ends before its {width} entries", len(entries), end)
    return entries


def _bundle_error(what: str, entry: int, offset: int) -> InvalidInput:
    return InvalidInput(f"the bundle {what}: entry {entry}, offset {offset}", hint="fetch it again from the log")


def grow(
    size: int, edge: Sequence[bytes], leaves: Buffer, runs: Sequence[Run]
) -> tuple[list[tuple[Tile, bytes]], list[bytes]]:
    """Append leaf hashes to a tree of `size` and give the hash tiles that came about; nothing is hashed here.

    The work and the memory follow the number of leaves, not the size of the tree.

    Args:
        size: Entries before.
        edge: The partial tile of each level from 0 up, empty where there is none; `TileReader.edge` reads it.
        leaves: New leaf hashes, 32 bytes each.
        runs: What `merkle.Frontier.extend` gave for these leaves.

    Returns:
        The tiles of `changes(size, new size)` without the bundles, in that order, with their bytes; and the new edge.

    Raises:
        InvalidInput: Edge, leaves and runs do not belong to each other and to that size.
    """
    rows = {run.level: run for run in runs if run.level % _HEIGHT == 0}
    found: list[tuple[Tile, bytes]] = []
    after: list[bytes] = []
    row = bytes(leaves)
    end = size + len(row) // HASH_BYTES
    if len(row) % HASH_BYTES or not 0 <= size <= end <= MAX_SIZE:
        raise InvalidInput("leaf hashes are not 32 bytes each, or the tree has no such size")
    for level in range(_HEIGHT):
        held, more = (each >> (_HEIGHT * level) for each in (size, end))
        data = edge[level] if level < len(edge) else b""
        if level:
            run = rows.get(level * _HEIGHT) or Run(level, held, b"")
            row = run.hashes if run.first == held else b""
        if len(data) != held % WIDTH * HASH_BYTES or len(row) != (more - held) * HASH_BYTES:
            raise InvalidInput(f"the hashes of tile level {level} do not take a tree from size {size} to {end}")
        if row:
            data += row
            first, full = held // WIDTH, len(data) // _FULL_BYTES
            for number in range(full):
                tile = Tile(level, first + number)
                found.append((tile, data[number * _FULL_BYTES : (number + 1) * _FULL_BYTES]))
            data = data[full * _FULL_BYTES :]
            if data:
                found.append((Tile(level, first + full, len(data) // HASH_BYTES), data))
        after.append(data)
    while after and not after[-1]:
        after.pop()
    return found, after


class TileReader:
    """Hashes of full subtrees, read from tiles: `at(size)` is what `merkle` builds roots and proofs from.

    Safe from any thread. Tiles are not checked against a root here: a proof built from wrong ones does not verify.

    Args:
        read: Gives the bytes at a path, or None.
        cache: Tiles kept at most, 16 KiB each with the nodes inside them: 1,024 are 16 MiB, the upper levels of any log
            and the recent part of level 0.
        hasher: Hashes the nodes inside a tile, up to 255.
    """

    def __init__(self, read: Read, *, cache: int = 1024, hasher: Hasher = _PLAIN) -> None:
        self._read = read
        self._hasher = hasher
        self._half = max(cache // 2, 1)
        self._lock = threading.Lock()
        # Two generations: what is asked for again moves to the new one, and the old one is dropped whole. A look costs
        # one `get` without a lock, where a list in order of use would cost two moves under one.
        self._new: dict[tuple[int, int, int], list[bytes]] = {}
        self._old: dict[tuple[int, int, int], list[bytes]] = {}

    def at(self, size: int) -> ReadHashes:
        """Give the function that reads hashes of a tree of `size`; all sizes share the cache."""
        return functools.partial(self.hashes, size)

    def hashes(self, size: int, places: Sequence[Place]) -> list[bytes]:
        """Give the hashes of full subtrees, in the order asked; see `hash`."""
        return [self.hash(size, level, index) for level, index in places]

    def hash(self, size: int, level: int, index: int) -> bytes:
        """Give the hash of the subtree over entries `index << level` to `(index + 1) << level`.

        Args:
            size: Of the tree whose tiles are asked for; they may be partial.
            level: Height of the subtree, 0 for a leaf hash.
            index: Place among the subtrees of that height.

        Raises:
            InvalidInput: The tree has no such full subtree.
            JournalCorrupt: A tile of the tree is missing or has another length than it must have.
        """
        if not (0 <= level <= _MAX_LEVEL and index >= 0 and (index + 1) << level <= size <= MAX_SIZE):
            raise InvalidInput(f"a tree of size {size} has no full subtree of level {level}, index {index}")
        height = level & 7
        number = index >> (_HEIGHT - height)
        width = (size >> (level - height)) - number * WIDTH
        key = (level >> 3, number, min(width, WIDTH))
        rows = self._new.get(key) or self._find(key)
        while len(rows) <= height:
            with self._lock:
                if len(rows) <= height:
                    row = rows[-1]
                    rows.append(self._hasher.nodes(row[: len(row) // 64 * 64]))
        start = (index & ((WIDTH >> height) - 1)) * HASH_BYTES
        return rows[height][start : start + HASH_BYTES]

    def edge(self, size: int) -> list[bytes]:
        """Give the partial tile of each level of a tree, empty where there is none, for `grow`.

        Raises:
            InvalidInput: The size is out of range.
            JournalCorrupt: A tile of the tree is missing or has another length than it must have.
        """
        if not 0 <= size <= MAX_SIZE:
            raise InvalidInput(f"there is no tree of size {size}")
        found: list[bytes] = []
        while held := size >> (_HEIGHT * len(found)):
            width = held % WIDTH
            found.append(self._partial(len(found), held // WIDTH, width))
        return found

    def _partial(self, level: int, index: int, width: int) -> bytes:
        return _fetch(self._read, Tile(level, index, width))[1][: width * HASH_BYTES] if width else b""

    def _find(self, key: tuple[int, int, int]) -> list[bytes]:
        """Give the rows of a tile from the older generation, from its full tile, or from where it lies."""
        full = (key[0], key[1], WIDTH)
        with self._lock:
            rows = self._new.get(key) or self._old.get(key) or self._new.get(full) or self._old.get(full)
        if rows is None:
            tile, data = _fetch(self._read, Tile(*key))
            rows = [data]
            self._keep((tile.level, tile.index, tile.width), rows)
        self._keep(key, rows)
        return rows

    def _keep(self, key: tuple[int, int, int], rows: list[bytes]) -> None:
        with self._lock:
            if key not in self._new and len(self._new) >= self._half:
                self._old, self._new = self._new, {}
            self._new[key] = rows


def read_bundle(read: Read, size: int, index: int) -> list[bytes]:
    """Give the entries a tree of `size` has in bundle `index`, from the full bundle where the partial one is gone.

    Raises:
        InvalidInput: The tree has no such bundle, or what is there does not decode.
        JournalCorrupt: It is missing.
    """
    width = width_at(size, ENTRIES, index)
    if index < 0 or not width:
        raise InvalidInput(f"a tree of size {size} has no entry bundle {index}")
    tile, data = _fetch(read, Tile(ENTRIES, index, width))
    try:
        return decode_bundle(data, tile.width)[:width]
    except InvalidInput as error:
        raise InvalidInput(f"{tile.path}: {error}", hint=error.hint) from None


def _fetch(read: Read, tile: Tile) -> tuple[Tile, bytes]:
    """Read a tile or bundle; where a partial one is gone, the full one that took its place."""
    for each in dict.fromkeys((tile, tile.full)):
        data = read(each.path)
        if data is None:
            continue
        if each.level != ENTRIES and len(data) != each.width * HASH_BYTES:
            raise JournalCorrupt(f"{each.path} has {len(data)} bytes, not {each.width * HASH_BYTES}", hint=_MEND)
        return each, data
    raise JournalCorrupt(f"{tile.path} is missing", hint=_MEND)


_MEND = "restore it from a backup or from a mirror of the log"
