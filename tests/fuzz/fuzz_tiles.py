# SPDX-License-Identifier: Apache-2.0
"""Bytes as the path of a tile and as an entry bundle: the one spelling of what they say, or an error of ours."""

from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.merkle import PlainHasher
from shieldwall.ledger.storage import check_path
from shieldwall.ledger.tiles import ENTRIES, Tile, decode_bundle, encode_bundle, parse_path

__all__ = ["SEEDS", "fuzz"]


def fuzz(data: bytes) -> None:
    """Read the bytes both ways; what is read must give the same bytes when it is written."""
    text = data.decode("utf-8", "replace")
    with suppress(InvalidInput):
        # Every path of a tile is one of the storage, so that serving a path needs no second look.
        assert check_path(parse_path(text).path) == text
    with suppress(InvalidInput):
        parts = check_path(text).split("/")
        assert all(part and part[0] != "." for part in parts)
    # The first byte says how many entries are expected, the rest is the bundle.
    width, bundle = data[0] + 1 if data else 0, data[1:]
    with suppress(InvalidInput):
        entries = decode_bundle(bundle, width)
        assert len(entries) == width
        assert encode_bundle(entries) == bundle
        assert len(PlainHasher().bundle(bundle)) == 32 * width


SEEDS: list[bytes] = [
    b"",
    b"tile/0/000",
    b"tile/63/x001/x234/067.p/255",
    b"tile/entries/x001/000.p/5",
    Tile(ENTRIES, 2**63 - 1, 1).path.encode(),
    b"\x00" + encode_bundle([b"one"]),
    b"\x03" + encode_bundle([b"one", b"", b"three" * 60, b"\x00\x01"]),
    b"\xff" + encode_bundle([b"x"] * 256),
]
"""Paths short and long, the last there is, and bundles of one, four and 256 entries."""
