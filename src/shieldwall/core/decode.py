# SPDX-License-Identifier: Apache-2.0
"""Finds runs of base64 and hex in a stream, and decodes the pieces of them that hold text.

`Runs` reads the folded bytes of one field and gives the same result for every cut: a run is divided at fixed distances
from its start, so that a long one is seen while it arrives. Each part carries `when`: how many bytes had to arrive for
it to be known. Offsets count folded bytes from the start of the field. What is decoded is read by `text`, not here.

Not seen: text behind more than 4,096 characters of noise in one piece if it is not ASCII, and UTF-16 beyond ASCII.
"""

import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

from shieldwall.core.origins import END

__all__ = ["BASE64", "HEX", "SPACED_HEX", "Kind", "Lane", "Part", "Pin", "Runs"]

_STEPS = (64, 256, 1024, 4096)
"""Characters from a run's start at which the first pieces end: early ones small, later ones 4,096 apart."""

_TEXT_BYTES = 15
"""So many printable ASCII bytes in a row are text: random bytes hold such a row once in 1.8 million places."""

_SAMPLE = 256
"""Bytes looked at before the whole piece is tried as UTF-8; random ones fail here."""

_ASCII_TEXT = bytes(0x61 if 0x20 <= code < 0x7F or code in b"\t\n\r" else 0x20 for code in range(256))
_TEXT_ROW = b"a" * _TEXT_BYTES
_NEVER_TEXT = bytes(code for code in range(256) if code in (0xC0, 0xC1) or code > 0xF4 or code == 0x7F) + bytes(
    code for code in range(0x20) if code not in b"\t\n\r"
)


class Kind(NamedTuple):
    """What a run of one encoding is made of."""

    name: str
    needle: bytes
    """What a run starts with, in the alphabet of `marks`."""
    marks: bytes | None
    """Table for `bytes.translate` to that alphabet; none: the caller has the marks already."""
    body: re.Pattern[bytes]
    """The characters of a run, in that alphabet."""
    between: bytes
    """Characters inside a run that mean nothing."""
    shortest: int
    """Characters a run must have."""
    lanes: int
    """Characters per unit. A run may be glued to a word before it, so each alignment is tried."""
    decode: Callable[[bytes], bytes]
    witness: bytes = b""
    """Characters of which one must stand in the needle, none for no such condition: a search for one is cheap."""


def _any(wanted: bytes, data: bytes, start: int, end: int) -> bool:
    return not wanted or any(data.find(code, start, end) >= 0 for code in wanted)


def _base64(chars: bytes) -> bytes:
    """Decode either alphabet; what a missing padding or a cut leaves over is dropped."""
    chars = chars.translate(_URL_SAFE)
    over = len(chars) % 4
    return binascii.a2b_base64(chars[:-1] if over == 1 else chars + b"=" * (-len(chars) % 4))


def _hex(chars: bytes) -> bytes:
    return binascii.a2b_hex(chars[: len(chars) // 2 * 2])


def _table(**classes: bytes) -> bytes:
    table = bytearray(b" " * 256)
    for mark, codes in classes.items():
        for code in codes:
            table[code] = ord(mark)
    return bytes(table)


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_DIGITS = b"0123456789abcdefABCDEF"
BASE64 = Kind("base64", b"a" * 24, None, re.compile(b"a*"), b"\r\n", 24, 4, _base64)
HEX = Kind("hex", b"h" * 32, _table(h=_DIGITS, n=b"\r\n"), re.compile(b"[hn]*"), b"\r\n", 32, 2, _hex)
SPACED_HEX = Kind(
    "hex", b"hhs" * 8, _table(h=_DIGITS, s=b" ,:;", n=b"\r\n"), re.compile(b"[hsn]*"), b" ,:;\r\n", 32, 2, _hex, b"46"
)


def _looks_like_text(data: bytes) -> bool:
    """Whether decoded bytes are worth reading: a row of printable ASCII (in UTF-16 too), or UTF-8 throughout."""
    if _TEXT_ROW in data.translate(_ASCII_TEXT, b"\0"):
        return True
    sample = data[:_SAMPLE]
    if len(data) < _TEXT_BYTES or len(sample.translate(None, _NEVER_TEXT)) != len(sample):
        return False
    # A piece may begin and end inside a character, hence the six bytes of slack.
    kept = data.decode("utf-8", "ignore").encode()
    return len(kept) >= len(data) - 6 and len(kept.translate(None, _NEVER_TEXT)) == len(kept)


class Lane:
    """One alignment of one run, and where its characters stand in the original field."""

    __slots__ = ("_ends", "_stops", "done", "is_open", "kind", "limit", "piece", "size", "start", "was_text")

    def __init__(self, kind: Kind, shift: int) -> None:
        self.kind = kind
        self.done = shift
        """Characters of the run that are judged."""
        self.limit = shift + _STEPS[0]
        """Characters at which the next piece ends."""
        self.piece = 0
        self.start: tuple[int, int] | None = None
        self.is_open = False
        """Whether any piece looked like text."""
        self.was_text = False
        """Whether the last piece did."""
        self.size = 0
        """Bytes decoded since the lane was opened."""
        self._ends: list[int] = []
        self._stops: list[int] = []

    def advance(self) -> None:
        """Set the next limit."""
        self.piece += 1
        step = _STEPS[self.piece] - _STEPS[self.piece - 1] if self.piece < len(_STEPS) else _STEPS[-1]
        self.done, self.limit = self.limit, self.limit + step

    def decoded(self, size: int, stop: int) -> None:
        """Note that `size` more bytes came from characters that end before code point `stop` of the field."""
        self.size += size
        self._ends.append(self.size)
        self._stops.append(stop)

    def span(self, end: int) -> tuple[int, int]:
        """Code points of the field: from the start of the run to the end of the piece that holds decoded byte `end`."""
        index = min(bisect_left(self._ends, end), len(self._ends) - 1)
        return (self.start[0] if self.start else 0), self._stops[index]


class Part(NamedTuple):
    """Decoded bytes of one lane."""

    when: int
    lane: Lane
    data: bytes
    last: bool


Pin = Callable[[int], tuple[int, int]]
"""Offset of a folded byte to the half-open code point range of the original field it came from."""


class Runs:
    """Finds and decodes the runs of one kind."""

    __slots__ = ("_chars", "_count", "_first", "_free", "_kind", "_lanes", "_pin")

    def __init__(self, kind: Kind, pin: Pin) -> None:
        self._kind = kind
        self._pin = pin
        self._lanes: list[Lane] = []
        self._chars = b""
        self._first = 0
        self._count = 0
        self._free = 0

    @property
    def is_active(self) -> bool:
        """Whether a run has begun and is not over."""
        return bool(self._lanes)

    def feed(self, data: bytes, marks: bytes, at: int, fresh: int) -> list[Part]:
        """Read on.

        Args:
            data: Folded bytes, the last few before the new ones included, so that a needle cut in two is found.
            marks: The same in the kind's alphabet.
            at: Offset of `data[0]`.
            fresh: Index of the first new byte.
        """
        parts: list[Part] = []
        index = fresh if self._lanes else max(0, self._free - at)
        while index < len(data):
            if not self._lanes:
                index = marks.find(self._kind.needle, index)
                if index < 0:
                    break
                if not _any(self._kind.witness, data, index, index + len(self._kind.needle)):
                    index += 1
                    continue
                self._lanes = [Lane(self._kind, shift) for shift in range(self._kind.lanes)]
                self._chars, self._first, self._count = b"", 0, 0
            match = self._kind.body.match(marks, index)
            stop = match.end() if match else index
            self._extend(data[index:stop], at + index, parts)
            if stop < len(data):
                self._finish(at + stop, at + stop + 1, parts)
            index = stop
        return parts

    def end(self, at: int) -> list[Part]:
        """The field is over after `at` bytes."""
        parts: list[Part] = []
        if self._lanes:
            self._finish(at, END, parts)
        return parts

    def _extend(self, data: bytes, at: int, parts: list[Part]) -> None:
        chars = data.translate(None, self._kind.between)
        before = self._count
        skipped = [] if len(chars) == len(data) else _skipped(data, self._kind.between)
        self._chars += chars
        self._count += len(chars)
        for shift, lane in enumerate(self._lanes):
            if lane.start is None and self._count > shift:
                lane.start = self._pin(at + shift - before + bisect_right(skipped, shift - before))
            while self._count >= lane.limit:
                index = lane.limit - before - 1
                stop = at + index + bisect_right(skipped, index) + 1
                raw = self._kind.decode(self._chars[lane.done - self._first : lane.limit - self._first])
                lane.advance()
                if self._judge(lane, raw, stop):
                    parts.append(Part(stop, lane, raw, last=False))
        done = min(lane.done for lane in self._lanes)
        self._chars, self._first = self._chars[done - self._first :], done

    def _finish(self, at: int, when: int, parts: list[Part]) -> None:
        """The run ended before offset `at`; known at `when`."""
        for lane in self._lanes:
            raw = b""
            if self._count >= self._kind.shortest:
                raw = self._kind.decode(self._chars[lane.done - self._first :])
            if not self._judge(lane, raw, at):
                raw = b""
            if lane.is_open:
                parts.append(Part(when, lane, raw, last=True))
        self._lanes = []
        self._chars = b""
        self._free = at

    def _judge(self, lane: Lane, raw: bytes, stop: int) -> bool:
        """Whether the piece belongs to a view: it looks like text, or the piece before it did (it may be the end)."""
        is_text = _looks_like_text(raw)
        belongs = is_text or lane.was_text
        lane.was_text = is_text
        lane.is_open = lane.is_open or is_text
        if belongs:
            lane.decoded(len(raw), self._pin(stop - 1)[1])
        return belongs


def _skipped(data: bytes, between: bytes) -> list[int]:
    """For each byte of `data` that means nothing, how many before it do mean something: ascending."""
    places = (index for index, code in enumerate(data) if code in between)
    return [place - count for count, place in enumerate(places)]
