# SPDX-License-Identifier: Apache-2.0
"""Folds UTF-8 that arrives in pieces and remembers where every folded byte came from.

`Origins.take` decodes, folds and encodes; the result does not depend on where the pieces were cut. A character cut in
two is waited for. A byte that is not part of valid UTF-8 counts as one code point and becomes U+FFFD; so does an
encoded lone surrogate (three bytes, one code point, as in the Python string it came from).

The way back is kept as blocks: plain ASCII is one block however long it is; other text is kept and measured only when
somebody asks. `prune` forgets what lies before an offset.
"""

import re
from bisect import bisect_right
from itertools import accumulate

from shieldwall.core.fold import DROPPED, TABLE

__all__ = ["END", "Origins"]

END = 1 << 62
"""Offset that stands for the end of the field: what is known only then comes after everything else."""

_BLOCK_CHARS = 1024
"""Code points per block: what one question about a place in non-ASCII text costs to measure."""

_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_REPLACED = range(0xDC80, 0xDD00)
"""Code points that `surrogateescape` uses for invalid bytes."""


def _held(raw: bytes) -> int:
    """How many bytes at the end of `raw` are a valid beginning of a character that is not complete."""
    for back in (1, 2, 3):
        if back > len(raw):
            return 0
        lead = raw[-back]
        if 0x80 <= lead < 0xC0:
            continue
        if not 0xC2 <= lead < 0xF5 or back >= (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4):
            return 0
        if back == 1:
            return 1
        # Second bytes that Unicode table 3-7 excludes. Surrogates (0xED 0xA0 ff.) are let through: see the module.
        second = raw[1 - back]
        bad = (lead == 0xE0 and second < 0xA0) or (lead == 0xF0 and second < 0x90) or (lead == 0xF4 and second > 0x8F)
        return 0 if bad else back
    return 0


class _Block:
    """A stretch of the field: plain ASCII (`text` is None), or text kept to be measured."""

    __slots__ = ("_folded", "_raws", "point", "points", "raw", "size", "text")

    def __init__(self, raw: int, point: int, text: str | None = None, size: int = 0) -> None:
        self.raw = raw
        self.point = point
        self.text = text
        self.size = size
        self.points = len(text) if text is not None else 0
        self._folded: list[int] = []
        self._raws: list[int] = []

    def measured(self) -> tuple[list[int], list[int]]:
        """Offsets of each code point inside the block: in folded bytes, in raw bytes; one more at the end."""
        if not self._folded and self.text is not None:
            lengths = (len(TABLE[ord(char)].encode()) for char in self.text)
            self._folded = list(accumulate(lengths, initial=0))
            self._raws = list(accumulate(map(_width, self.text), initial=0))
        return self._folded, self._raws


def _width(char: str) -> int:
    code = ord(char)
    if code < 0x80 or code in _REPLACED:
        return 1
    return 2 if code < 0x800 else 3 if code < 0x10000 else 4


class Origins:
    """Folded bytes of one field, and their places in it. Offsets count from the start of the field."""

    __slots__ = ("_at", "_blocks", "_hold", "end")

    def __init__(self) -> None:
        """Begin a field."""
        self._at = [0]
        self._blocks = [_Block(0, 0)]
        self._hold = b""
        self.end = 0
        """Folded bytes given out so far. A caller that sees `is_plain` may add to it for ASCII it did not pass in."""

    @property
    def is_plain(self) -> bool:
        """Whether ASCII that folds to itself may be counted by adding to `end` alone."""
        return self._blocks[-1].text is None and not self._hold

    def take(self, data: bytes, *, last: bool = False) -> bytes:
        """Fold the next bytes of the field.

        Args:
            data: UTF-8, cut anywhere.
            last: Nothing follows: an incomplete character at the end is invalid.
        """
        raw = self._hold + data if self._hold else data
        self._hold = b""
        if raw.isascii() and len(raw.translate(None, DROPPED)) == len(raw):
            self._plain(len(raw))
            return raw
        held = 0 if last else _held(raw)
        if held:
            self._hold = raw[-held:]
            raw = raw[:-held]
        try:
            text, step = raw.decode(), _BLOCK_CHARS
        except UnicodeDecodeError:
            text = _SURROGATE.sub(b"\xef\xbf\xbd", raw).decode("utf-8", "surrogateescape")
            # One block, so that `when` sees the neighbours of an invalid byte.
            step = len(text)
        return b"".join([self._add(text[start : start + step]) for start in range(0, len(text), step or 1)])

    def points(self, start: int, end: int) -> tuple[int, int]:
        """Half-open code point range of the field that became these folded bytes."""
        low = self._edge(start)[1]
        return low, low if start >= end else self._edge(end - 1, after=True)[1]

    def raws(self, start: int, end: int) -> tuple[int, int]:
        """The same in bytes of the field."""
        low = self._edge(start)[0]
        return low, low if start >= end else self._edge(end - 1, after=True)[0]

    def when(self, end: int) -> int:
        """How many bytes of the field must have arrived before the folded bytes up to `end` are given out."""
        if end >= END:
            return END
        block, local = self._find(end - 1)
        raw = self._edge(end - 1, after=True)[0]
        if block.text is None:
            return raw
        index = bisect_right(block.measured()[0], local) - 1
        if ord(block.text[index]) not in _REPLACED:
            return raw
        # An invalid byte is given out only once the byte that makes it invalid is seen.
        near = block.text[max(0, index - 3) : index + 1].encode("utf-8", "surrogateescape")
        for char in block.text[index + 1 : index + 4]:
            if not _held(near):
                return raw
            if ord(char) not in _REPLACED or not _held(near + bytes((ord(char) - 0xDC00,))):
                return raw + 1
            near += bytes((ord(char) - 0xDC00,))
            raw += 1
        return raw + 1 if _held(near) else raw

    def prune(self, floor: int) -> int:
        """Forget the way back from folded bytes before `floor`; gives a byte of the field not behind that place."""
        keep = bisect_right(self._at, floor) - 1
        if keep > 0:
            del self._at[:keep]
            del self._blocks[:keep]
        block = self._blocks[0]
        return block.raw + max(0, floor - self._at[0]) if block.text is None else block.raw

    def _plain(self, size: int) -> None:
        if size and self._blocks[-1].text is not None:
            last = self._blocks[-1]
            self._at.append(self.end)
            self._blocks.append(_Block(last.raw + last.size, last.point + last.points))
        self.end += size

    def _add(self, text: str) -> bytes:
        """Append a block of text that is not plain; gives its folded bytes."""
        raw, point = self._edge(self.end)
        size = len(text.encode("utf-8", "surrogateescape"))
        folded = text.translate(TABLE).encode()
        self._at.append(self.end)
        self._blocks.append(_Block(raw, point, text, size))
        self.end += len(folded)
        return folded

    def _find(self, offset: int) -> tuple[_Block, int]:
        index = max(0, bisect_right(self._at, offset) - 1)
        return self._blocks[index], offset - self._at[index]

    def _edge(self, offset: int, *, after: bool = False) -> tuple[int, int]:
        """Raw byte and code point where the code point behind a folded byte starts, or where it is over."""
        block, local = self._find(offset)
        if block.text is None:
            return block.raw + local + after, block.point + local + after
        if offset >= self.end:
            return block.raw + block.size, block.point + block.points
        folded, raws = block.measured()
        index = bisect_right(folded, local) - 1 + after
        return block.raw + raws[index], block.point + index
