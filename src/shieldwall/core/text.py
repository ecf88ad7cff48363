# SPDX-License-Identifier: Apache-2.0
"""Makes hidden, look-alike and encoded text visible, while it arrives.

A `Reader` takes the bytes of one field, cut anywhere, and gives out views: view 0 is the field itself, folded; every
stretch of encoded text found in it is a view of its own, read in the same way and so nested, at most `MAX_DEPTH` deep.
What is given out is a pure function of the field's bytes: a view's bytes, its steps and its number are the same for
every cut. `locate` and `source` lead back to the original field.

Four ideas, one module each: `fold` (one plain spelling), `origins` (the way back), `decode` (runs of base64 and hex),
`escapes`. Decoders read folded text, so base64 in full-width letters or with zero-width characters inside is found too.
Most text holds none of this: for ASCII without encoded runs `feed` is one table lookup and three searches.

Limits: `MAX_VIEWS` views per field and `MAX_VIEW_BYTES` decoded bytes per run; an escape view is never longer than what
it was made from, and there is one per level. What lies beyond, and a run nested deeper than allowed, is not read;
`overflow` then says so.
"""

# ruff: noqa: SLF001  readers of one field form a tree and work on each other

from typing import NamedTuple

from shieldwall.core.decode import BASE64, HEX, SPACED_HEX, Lane, Part, Runs
from shieldwall.core.escapes import CONTEXT_CHARS, LOOK_AHEAD, SPECIAL, Escapes
from shieldwall.core.fold import DROPPED, LEET, fold
from shieldwall.core.origins import END, Origins

__all__ = ["ENCODED", "LEET", "LOOKBACK", "MAX_DEPTH", "MAX_VIEWS", "MAX_VIEW_BYTES", "Piece", "Reader", "fold"]

MAX_DEPTH = 3
"""How often decoded text is decoded again. A run nested deeper is reported by `overflow`."""

LOOKBACK = 4096
"""Folded bytes behind the end of a view that can still be located: 16 times the widest rule."""

MAX_VIEWS = 256
"""Decoded views per field. A chosen bound, not a measured one: a signed web token opens two."""

MAX_VIEW_BYTES = 1 << 20
"""Decoded bytes per run, 1 MiB: with `MAX_VIEWS` the bound on what one field can make a reader do."""

_TAIL = 31
"""Bytes kept from what arrived, so that the longest needle (32) is found across a cut."""

_CONTEXT_BYTES = 4 * CONTEXT_CHARS + LOOK_AHEAD
_MAX_RECENT = 64
"""Deltas kept before they are joined and cut to the context an escape view may need."""


_RUN = b"a"
_ESCAPE = b"e"
"""Also what the fold drops: both need the longer way, and one search is cheaper than two."""


ENCODED = (
    r"[0-9A-Za-z+/_\x0a\x0d-]{24}",
    r"(?:[0-9A-Za-z+/_\x0a\x0d-]{2}[^0-9A-Za-z+/_\x0a\x0d-]){8}",
    r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]",
)
"""Regular expressions over bytes. An ASCII text without NUL, `%`, `&` and `\\` in which none of them occurs is its own
only view: nothing in it is encoded and nothing is dropped. Upper and lower case are alike to them."""


def _marks() -> bytes:
    """Table from a byte to its class: part of a base64 run, start of an escape or dropped by the fold, or other."""
    table = bytearray(b" " * 256)
    for code in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_\r\n":
        table[code] = ord(_RUN)
    for code in SPECIAL + DROPPED:
        table[code] = ord(_ESCAPE)
    return bytes(table)


_MARKS = _marks()
_NEEDLE = BASE64.needle
_SPACED_PAIRS = b"aa " * 8
"""What 8 hex pairs with single separators look like among `_MARKS`: cheaper than a table of their own."""
_FEW = 8
"""So many places are looked at one by one before the whole text is."""


class Piece(NamedTuple):
    """What a view grew by."""

    view: int
    """0 is the field itself; each decoded view has its own number, in order of appearance."""
    steps: tuple[str, ...]
    """How the view was decoded, outermost first: () for view 0, else such as ("escape", "base64")."""
    data: bytes
    """Folded UTF-8 to append to the view; never ends inside a character."""
    last: bool
    """Whether the view has ended."""


class Reader:
    """Reads one field."""

    __slots__ = (
        "_children", "_depth", "_ended", "_escape_child", "_escapes", "_fresh", "_hex", "_is_armed", "_is_dead",
        "_kept", "_lane", "_number", "_opened", "_origins", "_parent", "_plain", "_quiet", "_recent", "_root", "_runs",
        "_spaced", "_stale", "_steps", "_tail", "_taken", "_touched", "_views", "overflow",
    )  # fmt: skip

    def __init__(self, depth: int = MAX_DEPTH) -> None:
        """Begin a field.

        Args:
            depth: How often decoded text is decoded again.
        """
        self._depth = depth
        self._tail = b""
        self._recent: list[bytes] = []
        self._plain = 0
        self._quiet = True
        self._ended = False
        # The rest is made when something needs it: most fields are plain, and a reader is made for each.
        self._is_armed = False
        self._kept = END
        self.overflow = False
        """Whether encoded text was left unread because of a limit."""

    def _arm(self) -> None:
        """Make ready for what is not plain, and count what was."""
        if not self._is_armed:
            self._is_armed = True
            self._steps: tuple[str, ...] = ()
            self._root = self
            self._parent: Reader | None = None
            self._lane: Lane | None = None
            self._origins = Origins()
            self._runs = Runs(BASE64, self._pin)
            self._hex = Runs(HEX, self._pin)
            self._spaced = Runs(SPACED_HEX, self._pin)
            self._escapes = Escapes()
            self._escape_child: Reader | None = None
            self._children: dict[Lane, Reader] = {}
            self._opened: list[tuple[int, Reader]] = []
            self._fresh: list[bytes] = []
            self._number = 0
            self._taken = 0
            self._is_dead = False
            self._views: list[Reader] = [self]
            self._touched: dict[Reader, None] = {}
            self._stale: list[Reader] = []
        self._origins.end += self._plain
        self._plain = 0

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes of the field, UTF-8, cut anywhere.

        Invalid bytes and encoded lone surrogates become U+FFFD; nothing raises.

        Returns:
            What each view grew by, view 0 first, then by number; at most one piece per view.
        """
        if self.skim(data):
            return [Piece(0, (), data, False)] if data else []  # noqa: FBT003  a keyword costs time here
        self._arm()
        self._forget()
        self._take(data)
        return self._pieces()

    def skim(self, data: bytes) -> bool:
        """Take the next bytes if they are plain: they are then what view 0 grew by, and no other view did.

        Returns:
            Whether they were; if not, nothing was taken.
        """
        if not (self._quiet and data.isascii()):
            return False
        window = self._tail + data
        marks = window.translate(_MARKS)
        if _NEEDLE in marks or _ESCAPE in marks or _has_pairs(window, marks):
            return False
        self._tail = window[-_TAIL:]
        self._plain += len(data)
        self._recent.append(data)
        if len(self._recent) > _MAX_RECENT or len(data) > _CONTEXT_BYTES:
            self._trim()
        return True

    def end(self) -> list[Piece]:
        """The field is over: what was waited for, and the last piece of every view that is still open."""
        if self._quiet and not self._is_armed:
            self._ended = True
            return [Piece(0, (), b"", last=True)]
        self._arm()
        self._forget()
        self._finish()
        return self._pieces()

    def locate(self, view: int, start: int, end: int) -> tuple[int, int]:
        """Byte range in a view's folded bytes to the half-open code point range of the original field.

        For view 0, and for escapes, the tight range. For a run, from its first character to the end of the piece that
        holds the last byte asked for: where a run ends is not known while it arrives, and a range must not depend on
        that. Valid for the last `LOOKBACK` bytes of the view, for all the last call returned, and for what `keep` says.

        Raises:
            IndexError: There is no such view.
        """
        self._arm()
        return self._views[view]._trace(start, end)

    def keep(self, view: int, offset: int) -> None:
        """Let `locate` be valid for a view from this folded byte on, until another is named; costs memory as it grows.

        To be named before the way back is forgotten, at the latest `LOOKBACK` bytes later.
        """
        (self._views[view] if view else self)._kept = offset

    def source(self, offset: int) -> int:
        """Byte offset in view 0 to the byte offset in the original field where that code point starts."""
        self._arm()
        return self._origins.raws(offset, offset)[0]

    def _trace(self, start: int, end: int) -> tuple[int, int]:
        """Folded bytes of this reader to code points of the root's field."""
        reader = self
        while reader._parent is not None:
            start, end = reader._origins.raws(start, end)
            if reader._lane is not None:
                return reader._lane.span(end)
            start, end = reader._parent._escapes.source(start, end)
            reader = reader._parent
        return reader._origins.points(start, end)

    def _pin(self, offset: int) -> tuple[int, int]:
        return self._trace(offset, offset + 1)

    def _trim(self) -> None:
        """Keep of what was given out only what an escape view may start with."""
        self._recent = [b"".join(self._recent)[-_CONTEXT_BYTES:]]

    def _child(self, name: str, lane: Lane | None = None) -> "Reader":
        child = Reader(self._depth - 1)
        child._arm()
        child._steps = (*self._steps, name)
        child._root = self._root
        child._parent = self
        child._lane = lane
        return child

    def _take(self, data: bytes) -> None:
        """Fold and scan the next bytes of this reader's own input."""
        if self._ended or self._is_dead:
            return
        over = False
        if self._lane is not None:
            left = MAX_VIEW_BYTES - self._taken
            over = len(data) > left
            data = data[:left]
            self._taken += len(data)
        self._scan(self._origins.take(data))
        if over:
            self._root.overflow = True
            self._finish()

    def _finish(self) -> None:
        """This reader's input is over."""
        if self._ended or self._is_dead:
            return
        self._ended = True
        self._root._touched[self] = None
        self._scan(self._origins.take(b"", last=True), last=True)

    def _scan(self, folded: bytes, *, last: bool = False) -> None:
        """Give out folded bytes and look for what is encoded in them."""
        if folded:
            self._root._touched[self] = None
            self._fresh.append(folded)
        window = self._tail + folded
        fresh = len(self._tail)
        at = self._origins.end - len(window)
        marks = window.translate(_MARKS)
        # A needle of hex digits is one of base64 too, so hex is looked for only beside a base64 run.
        beside = self._runs.is_active or self._hex.is_active or _NEEDLE in marks
        parts = self._runs.feed(window, marks, at, fresh)
        if beside:
            parts += self._hex.feed(window, window.translate(HEX.marks), at, fresh)
        if self._spaced.is_active or _has_pairs(window, marks):
            parts += self._spaced.feed(window, window.translate(SPACED_HEX.marks), at, fresh)
        if last:
            parts += self._runs.end(self._origins.end)
            parts += self._hex.end(self._origins.end)
            parts += self._spaced.end(self._origins.end)
        for part in parts:
            self._read_part(part)
        if self._depth and (_ESCAPE in marks or not self._escapes.is_idle):
            self._read_escapes(folded, last=last)
        self._tail = window[-_TAIL:]
        self._recent.append(folded)
        if len(self._recent) > _MAX_RECENT or len(folded) > _CONTEXT_BYTES:
            self._trim()
        active = self._runs.is_active or self._hex.is_active or self._spaced.is_active
        self._quiet = not active and self._escapes.is_idle and self._origins.is_plain

    def _read_part(self, part: Part) -> None:
        child = self._children.get(part.lane)
        if child is None:
            if not self._depth:
                self._root.overflow = True
                return
            child = self._children[part.lane] = self._child(part.lane.kind.name, part.lane)
            self._opened.append((part.when, child))
        child._take(part.data)
        if part.last:
            child._finish()
            del self._children[part.lane]
        # What a run holds is known when its piece is, wherever in the piece it stands.
        self._opened += [(part.when, reader) for _, reader in child._drain()]

    def _read_escapes(self, folded: bytes, *, last: bool) -> None:
        escapes = self._escapes
        before = b"" if escapes.opened is not None else b"".join(self._recent)
        text = escapes.feed(folded, self._origins.end - len(folded), before, last=last)
        if escapes.opened is None:
            return
        child = self._escape_child
        if child is None:
            child = self._escape_child = self._child("escape")
            self._opened.append((escapes.opened, child))
        child._take(text)
        if last:
            child._finish()
        self._opened += [(escapes.when(when), reader) for when, reader in child._drain()]

    def _drain(self) -> "list[tuple[int, Reader]]":
        """Views opened since the last call in the order their text became known, with that place in the input."""
        opened = sorted(self._opened, key=_when)
        self._opened = []
        return [(self._origins.when(when), reader) for when, reader in opened]

    def _pieces(self) -> list[Piece]:
        """Number the views that were opened, and collect what every view grew by."""
        for _, reader in self._drain():
            if len(self._views) > MAX_VIEWS:
                reader._is_dead = True
                self.overflow = True
            else:
                reader._number = len(self._views)
                self._views.append(reader)
        pieces = []
        for reader in sorted(self._touched, key=_number):
            data = b"".join(reader._fresh)
            reader._fresh = []
            if not reader._is_dead and (data or reader._ended):
                pieces.append(Piece(reader._number, reader._steps, data, reader._ended))
        self._stale += self._touched
        self._touched = {}
        return pieces

    def _forget(self) -> None:
        """Drop what `locate` need not know any more: called before new bytes are taken, so the last call's stay."""
        for reader in self._stale:
            reader._prune()
        self._stale = []

    def _prune(self) -> int:
        """Forget the way back beyond LOOKBACK; gives the place in the input from which it is still known."""
        floor = max(0, min(self._kept, self._origins.end - LOOKBACK))
        if self._escape_child is not None:
            low = self._escape_child._prune()
            self._escapes.prune(low)
            floor = min(floor, self._escapes.source(low, low)[0])
        return self._origins.prune(floor)


def _has_pairs(window: bytes, marks: bytes) -> bool:
    """Whether spaced hex begins somewhere: looked for around its rarest digits, as prose holds few of them."""
    for digit in b"64":
        at = window.find(digit)
        for _ in range(_FEW):
            if at < 0:
                break
            if marks.find(_SPACED_PAIRS, max(0, at - len(_SPACED_PAIRS)), at + len(_SPACED_PAIRS)) >= 0:
                return True
            at = window.find(digit, at + 1)
        else:
            return _SPACED_PAIRS in marks
    return False


def _when(opened: tuple[int, Reader]) -> int:
    return opened[0]


def _number(reader: Reader) -> int:
    return reader._number
