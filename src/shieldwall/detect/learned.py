# SPDX-License-Identifier: Apache-2.0
"""The fast tier over one field, while it arrives: windows at fixed places of every view, judged when they are full.

What is found is a pure function of the field's bytes, however they were cut, and each window that is suspicious is led
back to the original text. A whole text takes the same path, fed in pieces.
"""

import math
from typing import Final, NamedTuple

from shieldwall.core.text import Reader
from shieldwall.detect.fast import CLASSES, FastTier

__all__ = ["LearnedField", "Window"]

_PIECE: Final = 2048
"""Bytes fed at once: a window is judged soon after it is full, also where a whole text is given."""
_MARGIN: Final = 240
"""Bytes of text before a window that the encoder is shown with it."""
_MOST: Final = 4096
"""Bytes that the words of a window and what stands before it have at most; a longer one is stretched by blanks."""
_LEAST: Final = 64
_SHARE: Final = 8
"""A view is looked at again when it grew by this part of what is kept of it, and by `_LEAST` bytes: work stays in
proportion to the text even where nothing but blanks comes."""


class Window(NamedTuple):
    """A window that is suspicious."""

    attack: float
    """Logit of attack, before calibration."""
    harm: float
    """Logit of harmful."""
    category: str
    """The likeliest class of attack."""
    text: str
    """What to show the encoder: the window with a little before it, folded."""
    span: tuple[int, int]
    """Half-open range in the original text, code points."""


class _View:
    """What is kept of a view: bytes from the first window that is not full, and a little before them."""

    __slots__ = ("before", "fresh", "fresh_size", "is_new", "kept", "start")

    def __init__(self) -> None:
        self.before = b""
        self.kept = b""
        self.fresh: list[bytes] = []
        self.fresh_size = 0
        self.start = 0
        self.is_new = True


class LearnedField:
    """Judges the windows of one field. Not for use by two threads at once."""

    def __init__(self, tier: FastTier, surface: str, *, attack: float, harm: float) -> None:
        """Begin a field.

        Args:
            tier: The weights.
            surface: Where the field stands.
            attack: Least logit of attack of a window that is given out.
            harm: Least logit of harmful, likewise.
        """
        self._tier = tier
        self._surface = surface
        self._floors = attack, harm
        self._reader = Reader()
        self._views: dict[int, _View] = {}
        self.worst = -math.inf
        """Greatest logit of attack of any window so far."""

    def feed(self, data: bytes) -> list[Window]:
        """Take the next bytes of the field, UTF-8, cut anywhere: suspicious ones of the windows that are now full."""
        found: list[Window] = []
        for start in range(0, len(data), _PIECE):
            for piece in self._reader.feed(data[start : start + _PIECE]):
                found += self._advance(piece.view, piece.data, last=piece.last)
        return found

    def end(self) -> list[Window]:
        """The field is over: suspicious ones of the windows that were still open."""
        found: list[Window] = []
        for piece in self._reader.end():
            found += self._advance(piece.view, piece.data, last=piece.last)
        return found

    def _advance(self, number: int, data: bytes, *, last: bool) -> list[Window]:
        view = self._views.get(number)
        if view is None:
            view = self._views[number] = _View()
            self._reader.keep(number, 0)
        view.fresh.append(data)
        view.fresh_size += len(data)
        if not last and view.fresh_size < max(_LEAST, len(view.kept) // _SHARE):
            return []
        kept = view.kept = b"".join((view.kept, *view.fresh))
        view.fresh, view.fresh_size = [], 0
        if last and view.is_new and not kept:
            return []
        batch = self._tier.windows(kept, self._surface, first=view.is_new, last=last)
        found = []
        least, least_harm = self._floors
        for at, (attack, harm) in enumerate(zip(batch.attacks, batch.harms, strict=True)):
            self.worst = max(self.worst, attack)
            if attack >= least or harm >= least_harm:
                start, end = batch.spans[at]
                text = _shown(view.before, kept, start, end)
                span = self._reader.locate(number, view.start + start, view.start + end)
                found.append(Window(attack, harm, CLASSES[batch.kinds[at]], text, span))
        if batch.attacks:
            view.before = (view.before + kept[: batch.used])[-_MARGIN:]
            view.kept, view.start, view.is_new = kept[batch.used :], view.start + batch.used, False
            # A window stretched by blanks may be longer than the reader remembers by itself.
            self._reader.keep(number, view.start)
        return found


def _shown(before: bytes, kept: bytes, start: int, end: int) -> str:
    context = (before + kept[:start])[-_MARGIN:]
    # A cut in the middle of a word, or of a character, is moved to the next blank.
    context = context[context.find(b" ") + 1 :]
    shown = context + kept[start:end]
    if len(shown) > _MOST:
        # A megabyte between two words must not cost the encoder its time: to it, blanks are alike.
        shown = b" ".join(shown.split())
    return shown.decode("utf-8", "replace")
