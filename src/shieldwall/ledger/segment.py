# SPDX-License-Identifier: Apache-2.0
"""The journal on disk: segments of fixed size, filled with frames, each frame one entry and its opening.

Format v1, `docs/formats/journal.md`. Bytes in, objects out: no file is opened here. A frame counts only where its CRC
fits, and the CRC starts from the segment's random id, so that bytes left from elsewhere never pass for an entry.

Each frame states how many entries were durable when it was written. That is what tells a torn tail (nobody was promised
these entries: cut) from a damaged entry that was acknowledged (refuse to start).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from shieldwall.core.errors import JournalCorrupt

__all__ = [
    "FRAME_BYTES",
    "HEAD_BYTES",
    "Frame",
    "Head",
    "Place",
    "Survey",
    "encode_frame",
    "encode_head",
    "frame_at",
    "read_head",
    "survey",
    "unreadable",
    "walk",
]

HEAD_BYTES = 64
"""Bytes before the first frame."""

FRAME_BYTES = 32
"""Bytes of a frame beside entry and opening."""

_MAGIC = b"SWJRNL1\n"
_HEAD = struct.Struct("<8sQQ16s")
_CRC = struct.Struct("<I")
_MARK = b"\xf5SWE"
"""Starts the checked part of a frame. 0xF5 occurs in no UTF-8 text, so a search for it seldom stops inside an entry."""
_FRAME = struct.Struct("<4sIIQQ")
_ZEROS = bytes(1 << 16)


class Head(msgspec.Struct, frozen=True):
    """First bytes of a segment, written and synced before it gets its name."""

    number: int
    """Place in the journal, from 1."""
    size: int
    """Bytes of the whole file."""
    id: bytes
    """16 random bytes, new for each segment."""

    @property
    def seed(self) -> int:
        """Where the CRC of every frame of this segment starts."""
        return zlib.crc32(_HEAD.pack(_MAGIC, self.number, self.size, self.id))


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame whose CRC fits. Offsets count from the start of the bytes it was found in."""

    index: int
    """Index of its entry; of the next entry where it is a note."""
    durable: int
    """Entries that were durable when it was written."""
    offset: int
    entry_at: int
    opening_at: int
    end: int

    @property
    def is_note(self) -> bool:
        """Whether it holds no entry and only states what is durable; the next frame is written over it."""
        return self.entry_at == self.opening_at


class Place(msgspec.Struct, frozen=True):
    """Where the entries of one segment lie."""

    head: Head
    first: int
    """Index of its first entry."""
    count: int
    end: int
    """Offset after its last entry."""
    dirty: int
    """Offset after the last byte that is not zero; greater than `end` where something unfinished follows."""


class Survey(msgspec.Struct, frozen=True):
    """What a journal holds after a stop of any kind."""

    places: list[Place]
    """Segments with entries, in order; the last is where writing goes on. Segment 1 is there even when empty."""
    count: int
    durable: int
    """Entries some later frame calls durable; the rest may still be on its way to the disk."""
    spare: list[tuple[Head, bool]]
    """Segments after the last place, and whether each is clean: only zeros after its head."""


def encode_head(head: Head) -> bytes:
    """Give the 64 bytes a segment starts with."""
    body = _HEAD.pack(_MAGIC, head.number, head.size, head.id)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(HEAD_BYTES, b"\0")


def read_head(data: bytes, *, number: int, size: int) -> Head:
    """Read the head of a segment that is named `number` and has `size` bytes.

    Raises:
        JournalCorrupt: It is damaged, or belongs to another place. A segment gets its name only after its head was
            synced, so no power cut leaves one like that.
    """
    body = data[: _HEAD.size]
    if len(data) >= HEAD_BYTES and data[_HEAD.size : _HEAD.size + _CRC.size] == _CRC.pack(zlib.crc32(body)):
        magic, *members = _HEAD.unpack(body)
        head = Head(*members)
        if magic == _MAGIC and head.number == number and head.size == size:
            return head
    raise JournalCorrupt(f"segment {number:08} does not start with its head (offset 0)", hint=_MEND)


def encode_frame(seed: int, index: int, durable: int, entry: bytes, opening: bytes = b"") -> bytes:
    """Give the bytes of a frame; without an entry, of a note."""
    head = _FRAME.pack(_MARK, len(entry), len(opening), index, durable)
    check = zlib.crc32(opening, zlib.crc32(entry, zlib.crc32(head, seed)))
    return b"".join((_CRC.pack(check), head, entry, opening))


def frame_at(data: bytes, offset: int, seed: int) -> Frame | None:
    """Give the frame at an offset of a segment's bytes, or None where there is no whole one."""
    if offset < 0 or offset + FRAME_BYTES > len(data):
        return None
    mark, entry_bytes, opening_bytes, index, durable = _FRAME.unpack_from(data, offset + _CRC.size)
    entry_at = offset + FRAME_BYTES
    end = entry_at + entry_bytes + opening_bytes
    # A frame that calls durable what comes after it was not written by a journal.
    if mark != _MARK or end > len(data) or durable > index:
        return None
    with memoryview(data) as view:
        check = zlib.crc32(view[offset + _CRC.size : end], seed)
    if check != _CRC.unpack_from(data, offset)[0]:
        return None
    return Frame(index, durable, offset, entry_at, entry_at + entry_bytes, end)


def walk(data: bytes, seed: int, index: int, offset: int) -> Iterator[Frame]:
    """Give the frames of entries `index`, `index + 1` … that follow each other from `offset` on."""
    while (frame := frame_at(data, offset, seed)) is not None and frame.index == index and not frame.is_note:
        yield frame
        index += 1
        offset = frame.end


def survey(segments: Iterable[bytes]) -> Survey:
    """Decide what the segments of a journal hold, given whole and in order from number 1.

    Raises:
        JournalCorrupt: An entry that a later frame calls durable does not read back, or a head is damaged. The message
            names segment and offset.
    """
    places: list[Place] = []
    spare: list[tuple[Head, bool]] = []
    count = durable = 0
    for number, data in enumerate(segments, 1):
        head = read_head(data[:HEAD_BYTES], number=number, size=len(data))
        seed, end, first = head.seed, HEAD_BYTES, count
        if not spare:
            for frame in walk(data, seed, count, HEAD_BYTES):
                count, end, durable = count + 1, frame.end, max(durable, frame.durable)
        durable = max(durable, _stated(data, seed, end))
        dirty = _used(data)
        if number == 1 or count > first:
            places.append(Place(head, first, count - first, end, dirty))
        else:
            spare.append((head, dirty <= HEAD_BYTES))
    if durable > count:
        at = places[-1]
        raise unreadable(count, at.head.number, at.end)
    return Survey(places, count, durable, spare)


def unreadable(index: int, number: int, offset: int) -> JournalCorrupt:
    """Give the error about an entry that was promised and does not read back."""
    where = f"segment {number:08}, offset {offset}"
    return JournalCorrupt(f"entry {index} was acknowledged, but does not read back: {where}", hint=_MEND)


_MEND = "do not delete the segment; restore it from a backup, or start a new journal and record the gap"


def _used(data: bytes) -> int:
    """Give the offset after the last byte that is not zero. Block by block: `rstrip` takes 85 ms for 16 MiB, this 2."""
    end = len(data)
    while end > len(_ZEROS) and data[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    begin = max(end - len(_ZEROS), 0)
    return begin + len(data[begin:end].rstrip(b"\0"))


def _stated(data: bytes, seed: int, offset: int) -> int:
    """Give the greatest count any frame after `offset` calls durable, whole frames lying anywhere."""
    durable = 0
    at = data.find(_MARK, offset)
    while at >= 0:
        frame = frame_at(data, at - _CRC.size, seed)
        if frame is not None:
            durable = max(durable, frame.durable)
        at = data.find(_MARK, frame.end if frame is not None else at + 1)
    return durable
