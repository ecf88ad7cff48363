# SPDX-License-Identifier: Apache-2.0
"""Tiles lie where others look for them, hold what they must, and answer for every subtree of the tree."""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from shieldwall.core.errors import InvalidInput, JournalCorrupt, LimitExceeded
from shieldwall.ledger.merkle import HASH_BYTES, MAX_SIZE, Frontier, PlainHasher, Run, leaf_hash, tree_root
from shieldwall.ledger.tiles import (
    ENTRIES,
    MAX_BUNDLE_ENTRY_BYTES,
    WIDTH,
    Tile,
    TileReader,
    changes,
    decode_bundle,
    encode_bundle,
    grow,
    is_in,
    parse_path,
    read_bundle,
    tile_path,
    tiles,
    width_at,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
SIZES = st.one_of(st.integers(0, 1_100), st.integers(65_000, 66_200), st.integers(0, 300_000))
INDEXES = st.one_of(st.integers(0, 2_000_000), st.integers(0, MAX_SIZE))
TILES = st.builds(Tile, st.integers(ENTRIES, 63), INDEXES, st.integers(1, WIDTH))


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(size)]


def naive(hashes: list[bytes]) -> bytes:
    """RFC 6962 as it is written down: split at the greatest power of two."""
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + naive(hashes[:half]) + naive(hashes[half:])).digest()


def built(size: int, *batches: int) -> dict[str, bytes]:
    """All hash tiles of a tree, appended in batches; partial tiles of the sizes between stay."""
    hashes, held, edge, frontier = leaves(size), 0, list[bytes](), Frontier()
    found = {}
    for end in (*batches, size):
        new = b"".join(hashes[held:end])
        made, edge = grow(held, edge, new, frontier.extend(new, PlainHasher()))
        found.update({tile.path: data for tile, data in made})
        held = end
    return found


@pytest.mark.parametrize("vector", VECTORS["tile_paths"], ids=lambda vector: vector["path"])
def test_paths_are_the_published_ones(vector: dict[str, Any]) -> None:
    level = ENTRIES if vector["level"] == "entries" else vector["level"]
    tile = Tile(level, vector["n"], vector["width"])

    assert tile.path == tile_path(tile) == vector["path"]
    assert parse_path(vector["path"]) == tile


def test_a_tree_of_70000_has_the_published_tiles() -> None:
    vector = VECTORS["tree_70000"]
    found = list(tiles(70_000))

    for level in (0, 1, 2):
        widths = [tile.width for tile in found if tile.level == level]
        assert widths.count(WIDTH) == vector.get(f"level{level}_full", 0)
        assert [width for width in widths if width < WIDTH] == [vector[f"level{level}_partial"]]
    assert [tile.width for tile in found if tile.level == ENTRIES] == [tile.width for tile in found if tile.level == 0]
    assert max(tile.level for tile in found) == 2


def test_small_trees_have_the_tiles_the_specification_names() -> None:
    """No empty tile at any edge; 256 entries fill one tile and begin the next level."""

    def paths(size: int) -> list[str]:
        return [tile.path for tile in tiles(size) if tile.level != ENTRIES]

    assert paths(0) == []
    assert paths(1) == ["tile/0/000.p/1"]
    assert paths(255) == ["tile/0/000.p/255"]
    assert paths(256) == ["tile/0/000", "tile/1/000.p/1"]
    assert paths(257) == ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1"]


@given(TILES)
def test_a_path_is_read_as_it_was_written(tile: Tile) -> None:
    assert parse_path(tile.path) == tile
    assert len(tile.path) <= 64


NOT_PATHS = (
    "",
    "tile",
    "tile/",
    "tile/0",
    "tile/0/",
    "/tile/0/000",
    "tile/0/000/",
    "tile//000",
    "tile/0/0",
    "tile/0/0000",
    "tile/00/000",
    "tile/01/000",
    "tile/64/000",
    "tile/100/000",
    "tile/-1/000",
    "tile/+1/000",
    "tile/data/000",
    "tile/Entries/000",
    "tile/8/0/000",
    "tile/0/1234",
    "tile/0/001/000",
    "tile/0/x001",
    "tile/0/x000/000",
    "tile/0/x000/x001/000",
    "tile/0/X001/000",
    "tile/0/xx001/000",
    "tile/0/x01/000",
    "tile/0/x1000/000",
    "tile/0/000.p",
    "tile/0/000.p/",
    "tile/0/000.p/0",
    "tile/0/000.p/01",
    "tile/0/000.p/256",
    "tile/0/000.p/999",
    "tile/0/000.p/1000",
    "tile/0/000.p/1/",
    "tile/0/000.P/1",
    "tile/0/x001.p/1/000",
    "tile/0/000\n",
    "tile/0/000 ",
    " tile/0/000",
    "tile/0/٣٣٣",
    "tile/٣/000",
    "tile/0/..",
    "tile/0/../0/000",
    "checkpoint",
    "tile/0/x009/x223/x372/x036/x854/x775/808",
    "tile/0/x999/x999/x999/x999/x999/x999/999",
    "tile/0/" + "x999/" * 2_000 + "999",
)


@pytest.mark.parametrize("path", NOT_PATHS)
def test_any_other_spelling_is_refused(path: str) -> None:
    """One tile has one path: what caches and access rules see is what is meant."""
    with pytest.raises(InvalidInput) as caught:
        parse_path(path)
    assert caught.value.hint


@given(st.text(st.sampled_from("tile/entriesx0123456789.p\n٣")) | st.text())
def test_whatever_is_read_as_a_path_is_its_only_spelling(text: str) -> None:
    try:
        tile = parse_path(text)
    except InvalidInput:
        return
    assert tile.path == text


@pytest.mark.parametrize(
    "tile", [Tile(-2, 0), Tile(64, 0), Tile(0, -1), Tile(0, MAX_SIZE + 1), Tile(0, 0, 0), Tile(0, 0, 257)]
)
def test_a_tile_that_cannot_be_has_no_path(tile: Tile) -> None:
    with pytest.raises(InvalidInput):
        tile_path(tile)
    assert not is_in(tile, 70_000)


def expected(size: int) -> set[Tile]:
    """Second implementation: cut each level into pieces, level by level."""
    found = {Tile(ENTRIES, at // 256, min(256, size - at)) for at in range(0, size, 256)}
    level, count = 0, size
    while count:
        found |= {Tile(level, at // 256, min(256, count - at)) for at in range(0, count, 256)}
        level, count = level + 1, count // 256
    return found


@given(SIZES, SIZES)
@example(0, 65_536)
@example(65_535, 65_536)
@example(65_536, 65_537)
def test_changes_are_what_the_new_tree_has_and_the_old_has_not(one: int, two: int) -> None:
    old, new = sorted((one, two))
    found = list(changes(old, new))

    assert set(found) == expected(new) - expected(old)
    assert found == sorted(set(found), key=lambda tile: (tile.level, tile.index))


@given(st.integers(0, 70_000), TILES)
def test_a_tile_is_in_a_tree_that_has_its_hashes(size: int, tile: Tile) -> None:
    held = min(tile.index, 1 << 70) * 256 + tile.width

    assert is_in(tile, size) == (held * (256 ** max(tile.level, 0)) <= size)
    assert all(is_in(each, size) and width_at(size, each.level, each.index) == each.width for each in tiles(size))
    assert width_at(size, tile.level, tile.index) == len(
        range(tile.index * 256, min(tile.index * 256 + 256, size // 256 ** max(tile.level, 0)))
    )


@pytest.mark.parametrize(("old", "new"), [(-1, 0), (2, 1), (0, MAX_SIZE + 1)])
def test_a_tree_does_not_shrink(old: int, new: int) -> None:
    with pytest.raises(InvalidInput):
        changes(old, new)


def test_the_greatest_tree_has_tiles_up_to_level_7() -> None:
    found = list(changes(MAX_SIZE - 1, MAX_SIZE))

    assert [tile.level for tile in found] == [ENTRIES, 0]
    assert [width_at(MAX_SIZE, level, 0) for level in (6, 7, 8)] == [256, 127, 0]


ENTRY_LISTS = st.lists(st.binary(max_size=40), min_size=1, max_size=256)


def test_the_published_entries_make_a_bundle_that_reads_back() -> None:
    """Framed by hand; and the roots of the published checkpoints are those of these entries."""
    entries = [text.encode() for text in VECTORS["tessera_testdata_entries"]]

    bundle = encode_bundle(entries)

    assert bundle[:10] == b"\x00\x03one\x00\x03two"
    assert decode_bundle(bundle, len(entries)) == entries


@given(ENTRY_LISTS)
def test_a_bundle_reads_back(entries: list[bytes]) -> None:
    bundle = encode_bundle(entries)

    assert bundle == b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    assert decode_bundle(bundle, len(entries)) == entries


@given(ENTRY_LISTS, st.data())
def test_a_bundle_that_is_cut_or_goes_on_is_refused(entries: list[bytes], data: st.DataObject) -> None:
    bundle = encode_bundle(entries)
    cut = data.draw(st.integers(0, len(bundle) - 1))

    for wrong in (bundle[:cut], bundle + b"\0", bundle + b"\0\0", bundle + bundle):
        with pytest.raises(InvalidInput, match=r"entry \d+, offset \d+"):
            decode_bundle(wrong, len(entries))


@given(st.binary(max_size=2_000), st.integers(-1, 258))
def test_bytes_are_a_bundle_or_an_error(data: bytes, width: int) -> None:
    try:
        entries = decode_bundle(data, width)
    except InvalidInput:
        return
    assert len(entries) == width
    assert encode_bundle(entries) == data


def test_where_a_bundle_is_wrong_is_said() -> None:
    """A cut length, a cut entry, too few, too many: entry and offset each time."""
    for data, width, message in (
        (b"\x00\x01a\x00", 2, "is cut: entry 1, offset 3"),
        (b"\x00\x01a\x00\x02b", 2, "is cut: entry 1, offset 3"),
        (b"\x00\x01a", 2, "ends before its 2 entries: entry 1, offset 3"),
        (b"\x00\x01a\x00\x01b", 1, "goes on after its 1 entries: entry 1, offset 3"),
        (b"", 1, "ends before its 1 entries: entry 0, offset 0"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            decode_bundle(data, width)


def test_what_does_not_fit_a_bundle_is_refused() -> None:
    greatest = bytes(MAX_BUNDLE_ENTRY_BYTES)

    assert decode_bundle(encode_bundle([greatest, b""]), 2) == [greatest, b""]
    with pytest.raises(LimitExceeded, match="entry 1"):
        encode_bundle([b"", greatest + b"x"])
    for entries in ([], [b""] * 257):
        with pytest.raises(InvalidInput):
            encode_bundle(entries)


@given(st.lists(st.integers(0, 70_000), max_size=4), st.integers(0, 70_000))
@example([], 65_536)
@example([255, 256, 65_535, 65_536], 65_537)
@effort(max_examples=15, deadline=None)
def test_a_tree_grows_by_the_tiles_that_change(cuts: list[int], size: int) -> None:
    """Any batches give the tiles of `changes`, and together the tiles of the tree built at once."""
    sizes = sorted(each for each in cuts if each <= size)
    hashes, held, edge, frontier = b"".join(leaves(size)), 0, list[bytes](), Frontier()
    found: dict[Tile, bytes] = {}
    for end in (*sizes, size):
        new = hashes[held * HASH_BYTES : end * HASH_BYTES]
        made, edge = grow(held, edge, new, frontier.extend(new, PlainHasher()))
        assert [tile for tile, _ in made] == [tile for tile in changes(held, end) if tile.level != ENTRIES]
        found.update(made)
        held = end
    read = {tile.path: data for tile, data in found.items()}.get

    assert all(len(data) == tile.width * HASH_BYTES for tile, data in found.items())
    assert {path: read(path) for path in built(size)} == built(size)
    assert TileReader(read).edge(size) == edge
    assert tree_root(size, TileReader(read).at(size)) == frontier.root()


def test_a_batch_that_is_not_of_the_tree_is_refused() -> None:
    frontier = Frontier()
    new = b"".join(leaves(300))
    runs = frontier.extend(new, PlainHasher())
    made, edge = grow(0, [], new, runs)
    assert len(made) == 3

    more = bytes(256 * HASH_BYTES)
    after = frontier.extend(more, PlainHasher())
    for size, wrong_edge, hashes, wrong_runs in (
        (0, [], new[:-1], runs),
        (-1, [], new, runs),
        (MAX_SIZE, [], new, runs),
        (0, [], new, []),
        (0, [], new[: 255 * HASH_BYTES], runs),
        (0, [bytes(32)], new, runs),
        (300, [], more, after),
        (300, [edge[0][:-32], *edge[1:]], more, after),
        (300, edge[:1], more, after),
        (300, edge, more, runs),
        (300, edge, more, [Run(run.level, run.first + 1, run.hashes) for run in after]),
    ):
        with pytest.raises(InvalidInput):
            grow(size, wrong_edge, hashes, wrong_runs)


@given(st.integers(1, 1_500), st.data())
@example(256, None)
@effort(max_examples=60, deadline=None)
def test_every_full_subtree_is_read_from_tiles(size: int, data: Any) -> None:
    """Each that is asked for is the hash RFC 6962 gives its entries."""
    reader = TileReader(built(size).get)
    hashes = leaves(size)
    draw: Callable[[Any], Any] = data.draw if data is not None else (lambda strategy: 0)
    for _ in range(20):
        level = draw(st.integers(0, size.bit_length() - 1))
        index = draw(st.integers(0, (size >> level) - 1))
        below = hashes[index << level : (index + 1) << level]

        assert reader.hash(size, level, index) == naive(below)
        assert reader.at(size)([(level, index), (0, 0)]) == [naive(below), hashes[0]]
    assert tree_root(size, reader.at(size)) == naive(hashes)


def test_a_large_tree_is_read_over_three_levels() -> None:
    size = 65_536 + 300
    reader, hashes = TileReader(built(size).get), leaves(size)

    assert reader.hash(size, 16, 0) == naive(hashes[:65_536])
    assert reader.hash(size, 12, 15) == naive(hashes[15 << 12 : 16 << 12])
    assert reader.hash(size, 8, 256) == naive(hashes[65_536 : 65_536 + 256])
    assert tree_root(size, reader.at(size)) == naive(hashes)


def test_smaller_trees_are_read_from_what_the_greater_left() -> None:
    """The partial tiles of a size between are gone; the full ones took their place, in the cache too."""
    files = built(700, 100, 300, 600)
    kept = {path: data for path, data in files.items() if path.partition(".p/")[0] not in files or ".p/" not in path}
    assert len(kept) < len(files)
    reader = TileReader(kept.get)

    for size in (100, 300, 100):
        assert tree_root(size, reader.at(size)) == naive(leaves(size))
        assert reader.edge(size)[0] == b"".join(leaves(size)[size // 256 * 256 :])


def test_what_the_tree_does_not_have_is_refused() -> None:
    reader = TileReader(built(300).get)

    for level, index in ((0, 300), (0, -1), (-1, 0), (8, 1), (1, 150), (9, 0), (64, 0), (10_000_000, 0)):
        with pytest.raises(InvalidInput):
            reader.hash(300, level, index)
    with pytest.raises(InvalidInput):
        reader.hash(MAX_SIZE + 1, 0, 0)
    for size in (-1, MAX_SIZE + 1):
        with pytest.raises(InvalidInput):
            reader.edge(size)


def test_a_missing_or_cut_tile_is_named() -> None:
    files = built(300)
    del files["tile/0/000"]
    files["tile/0/001.p/44"] += b"x"
    files["tile/1/000.p/1"] = b""
    reader = TileReader(files.get)

    with pytest.raises(JournalCorrupt, match="tile/0/000 is missing"):
        reader.hash(300, 0, 5)
    with pytest.raises(JournalCorrupt, match=r"tile/0/001\.p/44 has 1409 bytes, not 1408"):
        reader.hash(300, 0, 299)
    with pytest.raises(JournalCorrupt, match=r"tile/1/000\.p/1 has 0 bytes"):
        reader.edge(256)


def test_the_cache_is_bounded_and_spares_reading() -> None:
    size = 256 * 40
    files, asked = built(size), list[str]()

    def read(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    reader = TileReader(read, cache=8)
    for index in range(0, size, 64):
        reader.hash(size, 0, index)
    assert len(asked) == 40
    assert len(reader._new) + len(reader._old) <= 8

    for index in range(0, size, 64):
        reader.hash(size, 0, size - 1)
        reader.hash(size, 0, index)
    assert asked.count("tile/0/039") == 1, "what is asked for again and again stays"


def test_a_reader_serves_many_threads() -> None:
    size = 3_000
    reader, hashes = TileReader(built(size).get, cache=4), leaves(size)
    whole = {(level, 0): naive(hashes[: 1 << level]) for level in range(12)}
    start = threading.Barrier(8)

    def look(_: int) -> bool:
        start.wait(10)
        return all(reader.hash(size, *place) == found for place, found in reversed(whole.items()))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(8)))


def test_bundles_are_read_whole_or_from_the_full_one() -> None:
    entries = [b"%d" % number for number in range(300)]
    files = {"tile/entries/000": encode_bundle(entries[:256]), "tile/entries/001.p/44": encode_bundle(entries[256:])}

    assert read_bundle(files.get, 300, 0) == entries[:256]
    assert read_bundle(files.get, 300, 1) == entries[256:]
    assert read_bundle(files.get, 10, 0) == entries[:10], "its partial bundle is gone"
    for size, index in ((300, 2), (0, 0), (300, -1)):
        with pytest.raises(InvalidInput, match="no entry bundle"):
            read_bundle(files.get, size, index)
    with pytest.raises(JournalCorrupt, match=r"tile/entries/001\.p/10 is missing"):
        read_bundle(files.get, 266, 1)
    files["tile/entries/001.p/44"] += b"x"
    with pytest.raises(InvalidInput, match=r"tile/entries/001\.p/44: the bundle goes on"):
        read_bundle(files.get, 300, 1)
