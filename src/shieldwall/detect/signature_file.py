# SPDX-License-Identifier: Apache-2.0
"""The file of an index of signatures: a header, flat columns, and a digest over all of it.

    magic "SWSKETCH", version u16, zero u16, key 8 bytes
    counts of texts, pieces, values and bytes of meanings, u64 each
    per text:  digest u64; length of its meaning u32; then all meanings as JSON, one after the other
    per piece: its text u32, ascending; number of its values u8; its places u16
    low halves of all values u32
    BLAKE2b-256 of all that stands before

Little-endian throughout. The digest finds damage, not malice: who can write the file can also make the digest.
"""

import hashlib
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.sketch import KEPT, PIECE, Meaning

__all__ = ["DIGEST_BYTES", "HEADER", "MAGIC", "VERSION", "Held", "decode", "encode", "replace_file"]

MAGIC: Final = b"SWSKETCH"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sHH8sQQQQ")
DIGEST_BYTES: Final = 32
_TEXT_BYTES: Final = 12
_PIECE_BYTES: Final = 7
_MOST: Final = 1 << 40
"""More of anything than this is not there; keeps sums of hostile counts small."""

Array: TypeAlias = Any


class Held(NamedTuple):
    """What an index holds, as numpy columns."""

    digests: Array
    """Per text, uint64."""
    meanings: list[bytes]
    """Per text, JSON of a `Meaning`."""
    owners: Array
    """Per piece, the number of its text, uint32, ascending."""
    counts: Array
    """Per piece, how many values it has, uint8."""
    places: Array
    """Per piece, how many places it spans, uint16."""
    values: Array
    """Low halves of all values, uint32."""


def encode(key: bytes, held: Held) -> bytes:
    """Bytes of the file."""
    import numpy as np

    meanings = b"".join(held.meanings)
    lengths = np.array([len(each) for each in held.meanings], "<u4")
    counts = (len(held.meanings), len(held.owners), len(held.values), len(meanings))
    columns = (
        held.digests.astype("<u8"),
        lengths,
        meanings,
        held.owners.astype("<u4"),
        held.counts.astype("u1"),
        held.places.astype("<u2"),
        held.values.astype("<u4"),
    )
    body = HEADER.pack(MAGIC, VERSION, 0, key, *counts) + b"".join(bytes(column) for column in columns)
    return body + hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()


def decode(data: bytes) -> tuple[bytes, Held]:
    """Key and content of a file.

    Raises:
        InvalidInput: It is no such file, of a newer version, cut, damaged, or its columns do not fit each other.
    """
    if len(data) < HEADER.size + DIGEST_BYTES or not data.startswith(MAGIC):
        raise InvalidInput("this is no file of signatures")
    _, version, _, key, texts, count, values, words = HEADER.unpack_from(data)
    if version != VERSION:
        raise InvalidInput(f"the file of signatures has version {version}, this program reads {VERSION}")
    size = HEADER.size + _TEXT_BYTES * texts + words + _PIECE_BYTES * count + 4 * values + DIGEST_BYTES
    if max(texts, count, values, words) > _MOST or size != len(data):
        raise InvalidInput("the file of signatures is cut, or longer than its header says")
    if hashlib.blake2b(data[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest() != data[-DIGEST_BYTES:]:
        raise InvalidInput("the file of signatures is damaged")
    held = _columns(data, texts, count, values, words)
    _check(held)
    return key, held


def _columns(data: bytes, texts: int, count: int, values: int, words: int) -> Held:
    import numpy as np

    at = HEADER.size

    def column(kind: str, number: int) -> Array:
        nonlocal at
        found = np.frombuffer(data, kind, number, at)
        at += found.nbytes
        return found

    digests, lengths = column("<u8", texts), column("<u4", texts)
    if int(lengths.sum(dtype=np.uint64)) != words:
        raise InvalidInput("the meanings in the file of signatures do not fit its header")
    meanings = []
    for length in lengths.tolist():
        meanings.append(data[at : at + length])
        at += length
    return Held(
        digests, meanings, column("<u4", count), column("u1", count), column("<u2", count), column("<u4", values)
    )


def _check(held: Held) -> None:
    import numpy as np

    # Ascending without a gap, from the first text to the last: every text has a piece.
    whole = np.array_equal(np.unique(held.owners), np.arange(len(held.meanings)))
    if not whole or (held.owners[1:] < held.owners[:-1]).any() or (held.digests == 0).any():
        raise InvalidInput("the pieces in the file of signatures do not fit its texts")
    counts = held.counts
    if int(counts.sum(dtype=np.uint64)) != len(held.values) or ((counts < 1) | (counts > KEPT)).any():
        raise InvalidInput("the values in the file of signatures do not fit its pieces")
    if ((held.places < 1) | (held.places > PIECE)).any():
        raise InvalidInput("a piece in the file of signatures has no place, or too many")
    decoder = msgspec.json.Decoder(Meaning)
    try:
        for words in held.meanings:
            decoder.decode(words)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidInput("a meaning in the file of signatures cannot be read") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that the old one or the new one is there, whole, also after a power cut.

    Raises:
        OSError: The directory or the disk refused it; the old file stays.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
