# SPDX-License-Identifier: Apache-2.0
"""From journal to tree: entries become bundles and hash tiles, and what was written is hashed again from where it lies.

The work goes in steps of bounded size, so memory follows the step and not the log. All that is carried from one step to
the next is the right edge of the tree, and that can be read from the tiles at any time: nothing else is kept on disk,
and so nothing else can be wrong.
"""

from collections.abc import Callable, Sequence

import msgspec

from shieldwall.core.errors import InvalidInput, JournalCorrupt
from shieldwall.ledger.journal import Journal
from shieldwall.ledger.merkle import HASH_BYTES, Frontier, Hasher, subtrees
from shieldwall.ledger.register import LogRefused
from shieldwall.ledger.tiles import ENTRIES, WIDTH, Tile, TileReader, encode_bundle, grow

__all__ = ["Edge", "Step", "check_journal", "check_written", "gather", "integrate", "load_edge"]

_BUNDLE_HEAD_BYTES = 2


class Edge(msgspec.Struct, frozen=True):
    """The right edge of the tree: all that is needed to append to it."""

    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    """Of the full subtrees it consists of, see `merkle.Frontier`."""
    tiles: tuple[bytes, ...]
    """The partial tile of each level, see `tiles.grow`."""


class Step(msgspec.Struct, frozen=True):
    """A piece the tree has grown by."""

    edge: Edge
    """The right edge after it."""
    bundles: dict[str, bytes]
    """Entry bundles by path, in order."""
    hash_tiles: dict[str, bytes]
    """Hash tiles by path."""
    full: tuple[str, ...]
    """Paths of the full ones among both; their partial forerunners are of no use any more."""


def load_edge(reader: TileReader, size: int) -> Edge:
    """Read the right edge of a tree from its tiles.

    Raises:
        JournalCorrupt: A tile is missing or has another length than it must have.
    """
    frontier = Frontier(size, reader.hashes(size, subtrees(0, size)) if size else [])
    return Edge(size, frontier.root(), tuple(frontier.hashes), tuple(reader.edge(size)))


def gather(journal: Journal, size: int, target: int, *, most: int, most_bytes: int) -> list[bytes]:
    """Give the next entry bundles, the first from its beginning on, though the tree holds a part of it already.

    Args:
        journal: What is durable.
        size: Entries the tree has.
        target: Entries it is to have in the end, no more than the journal has.
        most: Entries of a step, at least 256; a step that is not the last ends at a full bundle.
        most_bytes: Bytes of a step; at least one bundle is taken, however long it is.

    Raises:
        JournalCorrupt: The journal does not give them.
    """
    start = size // WIDTH * WIDTH
    end = target if target - start <= most else start + most // WIDTH * WIDTH
    bundles: list[bytes] = []
    waiting: list[bytes] = []
    taken = 0
    for index, entry, _ in journal.entries(start):
        waiting.append(entry)
        taken += _BUNDLE_HEAD_BYTES + len(entry)
        at_end = index + 1 == end
        if len(waiting) == WIDTH or at_end:
            bundles.append(encode_bundle(waiting))
            waiting.clear()
            if at_end or taken >= most_bytes:
                return bundles
    raise JournalCorrupt(f"the journal ends before entry {end - 1}", hint="restart the node, which reads all of it")


def integrate(edge: Edge, bundles: Sequence[bytes], hasher: Hasher) -> Step:
    """Grow the tree by bundles that `gather` gave; nothing is written.

    Raises:
        LogRefused: The journal's entries are not those the tree has in its last bundle.
    """
    known = edge.size % WIDTH * HASH_BYTES
    first = edge.size // WIDTH
    rows = [hasher.bundle(bundle) for bundle in bundles]
    if known and rows[0][:known] != edge.tiles[0]:
        raise _other_entries(first)
    leaves = b"".join(rows)[known:]
    frontier = Frontier(edge.size, edge.hashes)
    runs = frontier.extend(leaves, hasher)
    found, tiles = grow(edge.size, edge.tiles, leaves, runs)
    names = [Tile(ENTRIES, first + number, len(row) // HASH_BYTES) for number, row in enumerate(rows)]
    return Step(
        Edge(frontier.size, frontier.root(), tuple(frontier.hashes), tuple(tiles)),
        {name.path: bundle for name, bundle in zip(names, bundles, strict=True)},
        {tile.path: data for tile, data in found},
        tuple(tile.path for tile in (*names, *(tile for tile, _ in found)) if tile.width == WIDTH),
    )


def check_written(read: Callable[[str], bytes | None], before: Edge, step: Step, hasher: Hasher) -> None:
    """Read a step back and build it a second time from the bundles as they lie there, before anyone signs it.

    Raises:
        LogRefused: Something reads back otherwise than it was computed from the journal. The message names it.
    """
    bundles = []
    for path in step.bundles:
        data = read(path)
        if data is None:
            raise _unlike(path)
        bundles.append(data)
    try:
        again = integrate(before, bundles, hasher)
    except (LogRefused, InvalidInput):
        raise _unlike(next(iter(step.bundles))) from None
    for path, bundle in step.bundles.items():
        if again.bundles.get(path) != bundle:
            raise _unlike(path)
    for path, tile in again.hash_tiles.items():
        if step.hash_tiles.get(path) != tile or read(path) != tile:
            raise _unlike(path)
    if again.edge != step.edge:
        raise _unlike("the root")


def check_journal(journal: Journal, reader: TileReader, size: int, hasher: Hasher) -> None:
    """Compare the last bundle of a tree of `size` with the journal.

    Raises:
        LogRefused: The journal is shorter than the tree, or has other entries there.
        JournalCorrupt: A tile is missing.
    """
    if journal.size < size:
        raise LogRefused(
            f"the journal is shorter than the log: it has {journal.size} entries, the log has signed {size}",
            hint="DATA/journal is from an older backup or was cut: restore the newest one, and keep what is there",
        )
    if not size:
        return
    start = (size - 1) // WIDTH * WIDTH
    bundles = gather(journal, start, size, most=WIDTH, most_bytes=1)
    tile = b"".join(reader.hashes(size, [(0, index) for index in range(start, size)]))
    if hasher.bundle(bundles[0]) != tile:
        raise _other_entries(start // WIDTH)


def _other_entries(bundle: int) -> LogRefused:
    return LogRefused(
        f"the journal has other entries than the log among {bundle * WIDTH} to {bundle * WIDTH + WIDTH - 1}",
        hint="DATA/journal and DATA/ledger are not of one time or one node: restore both from where the log ran last",
    )


def _unlike(what: str) -> LogRefused:
    return LogRefused(
        f"{what} in DATA/ledger reads back otherwise than it was written; it was not signed",
        hint="test memory and disk; then compare the file with the journal's entries before it is removed",
    )
