# SPDX-License-Identifier: Apache-2.0
"""Files of public fingerprints: what is common, and what harmless texts look like. No text, no key.

    magic "SWPRINTS", version u16, kind u16 (0 common, 1 canaries), counts of texts and of fingerprints, u64 each
    per canary text: how many different fingerprints it has u16; how many of them are kept, the smallest, u16
    fingerprints u64; those of what is common in ascending order, those of the canaries text by text
    BLAKE2b-256 of all that stands before

Little-endian throughout. Bytes in, bytes out; who ships and who reads the files is not this module's concern.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from shieldwall.core.errors import InvalidInput

__all__ = ["Canary", "decode_canaries", "decode_common", "encode_canaries", "encode_common"]

_MAGIC: Final = b"SWPRINTS"
_VERSION: Final = 1
_COMMON: Final = 0
_CANARIES: Final = 1
_HEADER: Final = struct.Struct("<8sHHQQ")
_TEXT: Final = struct.Struct("<HH")
_DIGEST_BYTES: Final = 32


class Canary(NamedTuple):
    """A harmless text by its fingerprints."""

    total: int
    """Different fingerprints it has, common ones subtracted."""
    kept: bytes
    """The smallest of them, 8 bytes each, little-endian."""


def encode_common(fingerprints: Sequence[int]) -> bytes:
    """Bytes of a file of common fingerprints."""
    ordered = sorted(set(fingerprints))
    return _sealed(_COMMON, 0, len(ordered), struct.pack(f"<{len(ordered)}Q", *ordered))


def decode_common(data: bytes) -> bytes:
    """Common fingerprints, ascending, 8 bytes each, little-endian: as `core.sketcher.make_sketcher` takes them.

    Raises:
        InvalidInput: It is no such file, of a newer version, cut or damaged.
    """
    _, count = _opened(data, _COMMON)
    return data[_HEADER.size : _HEADER.size + 8 * count]


def encode_canaries(canaries: Sequence[Canary]) -> bytes:
    """Bytes of a file of canaries."""
    heads = b"".join(_TEXT.pack(canary.total, len(canary.kept) // 8) for canary in canaries)
    kept = b"".join(canary.kept for canary in canaries)
    return _sealed(_CANARIES, len(canaries), len(kept) // 8, heads + kept)


def decode_canaries(data: bytes) -> list[Canary]:
    """Canaries of a file.

    Raises:
        InvalidInput: It is no such file, of a newer version, cut or damaged, or its counts do not fit each other.
    """
    texts, count = _opened(data, _CANARIES)
    heads = list(_TEXT.iter_unpack(data[_HEADER.size : _HEADER.size + _TEXT.size * texts]))
    if sum(kept for _, kept in heads) != count or any(not 0 < kept <= total for total, kept in heads):
        raise InvalidInput("the counts in the file of canaries do not fit each other")
    at = _HEADER.size + _TEXT.size * texts
    canaries = []
    for total, kept in heads:
        canaries.append(Canary(total, data[at : at + 8 * kept]))
        at += 8 * kept
    return canaries


def _sealed(kind: int, texts: int, count: int, body: bytes) -> bytes:
    whole = _HEADER.pack(_MAGIC, _VERSION, kind, texts, count) + body
    return whole + hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest()


def _opened(data: bytes, kind: int) -> tuple[int, int]:
    """Counts of texts and fingerprints, once all that can be checked without reading on is."""
    if len(data) < _HEADER.size + _DIGEST_BYTES or not data.startswith(_MAGIC):
        raise InvalidInput("this is no file of fingerprints")
    _, version, found, texts, count = _HEADER.unpack_from(data)
    if version != _VERSION or found != kind:
        raise InvalidInput(
            f"the file of fingerprints has version {version} and kind {found}, not {_VERSION} and {kind}"
        )
    if _HEADER.size + _TEXT.size * texts + 8 * count + _DIGEST_BYTES != len(data):
        raise InvalidInput("the file of fingerprints is cut, or longer than its header says")
    if hashlib.blake2b(data[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES).digest() != data[-_DIGEST_BYTES:]:
        raise InvalidInput("the file of fingerprints is damaged")
    return texts, count
