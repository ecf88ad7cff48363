# SPDX-License-Identifier: Apache-2.0
"""Judges one field whose bytes arrive in pieces, and says how much of it may already leave.

**Findings are a pure function of the field's bytes.** Each view of the field (see `core.text`) keeps a tail as long as
the longest match; new bytes are searched together with it. A rule's hits are taken by earliest end (see `matcher`),
all its forms competing, so what is found never depends on where the pieces were cut. A border needs its byte: a hit at
the very end of what has arrived waits for one more byte, or for the end.

**Hold-back.** Only a rule that applies to the field's surface and declares anchors holds text, from the first byte of
an anchor (or of a beginning of one at the tail) until the rule matched or could no longer match. Everything else
leaves at once. Disguises (leet, spaced letters, rot13, decoded views) hold nothing: they are found where they end, and
the text before that has left. The call that reports a match releases nothing from its first byte on; the caller
decides, and if it goes on, the next call releases the text.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from shieldwall.core.text import Reader
from shieldwall.core.verdict import Category, Finding
from shieldwall.detect.hold import Scope, incomplete
from shieldwall.detect.matcher import Matcher
from shieldwall.detect.phrase import SKELETON
from shieldwall.detect.program import CLASSES, DELEET, LEET_BYTES, Program

__all__ = ["FieldJudge"]

PLACES_MAX = 16
"""Places one rule reports in one view; more say nothing new, and a flood must stay cheap."""
_SPACED = (b" a a a ", b" a a  a ", b" a  a a ", b" a  a  a ")
_RUN = re.compile(rb"(?<![0-9a-z])(?:[0-9a-z](?:[\x01-\x2f:-@\[-`{-\x7f]{1,4}|(?=[^0-9a-z]))){6,}")


class _View:
    """What one view of the field remembers."""

    __slots__ = ("base", "floors", "leet_until", "places", "spaced_until", "tail")

    def __init__(self) -> None:
        self.tail = b"\0"
        """The last bytes in skeleton letters; a NUL stands before the first."""
        self.base = -1
        """Offset of the tail's first byte in the view."""
        self.leet_until = -1
        self.spaced_until = -1
        self.floors: dict[int, int] = {}
        """For each rule found, the offset before which no further hit may start; anchors below zero."""
        self.places: dict[int, int] = {}


class _Form(NamedTuple):
    """One form of a rule that occurs in the window, and how to read its hits."""

    matcher: Matcher
    pattern: int
    data: bytes
    leading: int
    trailing: int
    kind: str
    positions: list[int]


class _Place(NamedTuple):
    """A hit, in offsets of the view. Ordered by when it was there to see."""

    seen: int
    order: int
    start: int
    end: int


class FieldJudge:
    """Judge of one field; implements `core.ports.StreamJudge`. Not for use by two threads at once."""

    __slots__ = (
        "_held", "_hold", "_last", "_path", "_program", "_reader",
        "_received", "_released", "_scope", "_seen", "_views",
    )  # fmt: skip

    def __init__(self, program: Program, scope: Scope, path: str, *, hold: bool = True) -> None:
        """Begin a field.

        Args:
            program: The compiled rules.
            scope: The rules on the field's surface.
            path: JSON Pointer of the field.
            hold: False where nobody reads the release offset.
        """
        self._program = program
        self._scope = scope
        self._path = path
        self._hold = hold and scope.holds
        self._reader = Reader()
        self._views: dict[int, _View] = {0: _View()}
        self._seen: set[tuple[int, int, int]] = set()
        self._held: list[tuple[int, int, int]] = []
        self._received = 0
        self._released = 0
        self._last = b""

    def feed(self, data: bytes) -> tuple[int, list[Finding]]:
        """See `StreamJudge.feed`."""
        release = self.skim(data)
        if release is not None:
            return release, []
        self._received += len(data)
        found: list[Finding] = []
        limits: list[int] = []
        for piece in self._reader.feed(data):
            self._advance(piece.view, piece.data, found, limits, last=piece.last)
        return self._let_go(data, limits), found

    def skim(self, data: bytes) -> int | None:
        """See `StreamJudge.skim`: what `feed` does, for text in which no rule ends and nothing is encoded."""
        view = self._views[0]
        if view.spaced_until > view.base or not data.isascii():
            return None
        program = self._program
        fresh = data.translate(SKELETON)
        window = view.tail + fresh
        if program.main.which(window[-program.main_keep - len(fresh) :]):
            return None
        over, recent = view.base + len(window), program.leet_keep + len(fresh)
        leet_until = over if len(fresh.translate(None, LEET_BYTES)) != len(fresh) else view.leet_until
        if leet_until > over - recent and program.leet.which(window[-recent:].translate(DELEET)):
            return None
        if not self._reader.skim(data):
            return None
        view.leet_until = leet_until
        view.tail = window[-program.keep :]
        view.base = over - len(view.tail)
        self._received += len(data)
        return self._let_go(data, ())

    def _let_go(self, data: bytes, limits: Sequence[int]) -> int:
        """How much of the field may leave now that `data` was taken; not what stands behind a limit."""
        if not self._hold:
            self._released = self._received
            return self._received
        self._last = (self._last + data[-4:])[-4:]
        # Once released is released: a hit may begin before what an expired anchor let go, which nothing can call back.
        self._released = max(self._released, min(self._received - incomplete(self._last), self._free(), *limits))
        return self._released

    def end(self) -> list[Finding]:
        """See `StreamJudge.end`. Ends with a finding `uninspected` if decoding had to stop at its limit."""
        found: list[Finding] = []
        for piece in self._reader.end():
            self._advance(piece.view, piece.data, found, [], last=piece.last)
        for number in sorted(self._views):
            self._advance(number, b"", found, [], last=True)
        if self._reader.overflow:
            found.append(self._uninspected())
        return found

    def _advance(self, number: int, data: bytes, found: list[Finding], limits: list[int], *, last: bool) -> None:
        """Search the next bytes of a view together with its tail."""
        view = self._views.get(number)
        if view is None:
            view = self._views[number] = _View()
        program = self._program
        fresh = data.translate(SKELETON)
        if last:
            fresh += b"\0"
            del self._views[number]
        window = view.tail + fresh
        over = view.base + len(window)
        if len(fresh.translate(None, LEET_BYTES)) != len(fresh):
            view.leet_until = over
        # What ended before these bytes was found before.
        indexes = program.main.which(window[-program.main_keep - len(fresh) :])
        if indexes and indexes[-1] == program.spaced_row:
            view.spaced_until = over
            indexes = indexes[:-1]
        # A disguised match that ends here began within its width, and holds a disguised letter.
        recent = program.leet_keep + len(fresh)
        leet = window[-recent:].translate(DELEET) if view.leet_until > over - recent else b""
        if indexes or view.spaced_until > view.base or leet:
            forms = self._forms(view, window, indexes, number)
            self._leet(window, program.leet.which(leet) if leet else (), forms)
            if forms:
                self._settle(number, view, window, forms, found, limits)
        view.tail = window[-program.keep :]
        view.base = over - len(view.tail)

    def _forms(self, view: _View, window: bytes, indexes: Sequence[int], number: int) -> dict[int, list[_Form]]:
        """The rules that occur in the window as they are or in spaced letters; anchors below zero."""
        program, applies = self._program, self._scope.applies
        forms: dict[int, list[_Form]] = {}
        for index in indexes:
            anchor = program.first_anchor - index - 1
            if anchor < 0 and (number != 0 or not self._hold):
                continue
            rule = program.anchors[-1 - anchor].rule if anchor < 0 else program.main_rules[index]
            if applies[rule]:
                pattern = program.main_patterns[index]
                form = _Form(program.main, index, window, pattern.leading, pattern.trailing, "plain", [])
                forms.setdefault(anchor if anchor < 0 else rule, []).append(form)
        if view.spaced_until > view.base:
            letters, positions = _pull_together(window)
            for index in program.spaced.which(letters):
                rule = program.spaced_rules[index]
                if applies[rule]:
                    form = _Form(
                        program.spaced, index, letters, leading=0, trailing=0, kind="spaced", positions=positions
                    )
                    forms.setdefault(rule, []).append(form)
        return forms

    def _leet(self, window: bytes, indexes: Sequence[int], forms: dict[int, list[_Form]]) -> None:
        """Add the rules that occur when digits and signs are read as letters."""
        program = self._program
        for index in indexes:
            rule, pattern = program.leet_rules[index], program.leet_patterns[index]
            if self._scope.applies[rule]:
                letters = window.translate(DELEET)
                form = _Form(program.leet, index, letters, pattern.leading, pattern.trailing, "leet", [])
                forms.setdefault(rule, []).append(form)

    def _settle(
        self,
        number: int,
        view: _View,
        window: bytes,
        forms: dict[int, list[_Form]],
        found: list[Finding],
        limits: list[int],
    ) -> None:
        """Take each rule's hits by earliest end, all its forms competing."""
        for key, candidates in sorted(forms.items()):
            floor = view.floors.get(key, -1)
            # What is no longer reported is no longer looked for: repeating an attack must not cost more than its bytes.
            while key < 0 or view.places.get(key, 0) < PLACES_MAX:
                nexts = [
                    _next(form, order, window, floor - view.base, view.base) for order, form in enumerate(candidates)
                ]
                place = min((place for place in nexts if place is not None), default=None)
                if place is None:
                    break
                if key < 0:
                    anchor = self._program.anchors[-1 - key]
                    # The reach counts the border before the anchor.
                    self._held.append((place.start, place.start - 1 + anchor.reach, anchor.rule))
                    # Anchors may overlap; the border byte before this one lies below its start.
                    view.floors[key] = floor = place.start
                    continue
                view.floors[key] = floor = place.end
                view.places[key] = view.places.get(key, 0) + 1
                self._report(number, key, place, found, limits)

    def _report(self, number: int, rule: int, place: _Place, found: list[Finding], limits: list[int]) -> None:
        span = self._reader.locate(number, place.start, place.end)
        if number == 0:
            self._held = [held for held in self._held if held[2] != rule or not place.start <= held[0] < place.end]
            if self._hold:
                limits.append(self._reader.source(place.start))
        # A decoded view may run through text that is in another view too: the same rule and place is one finding.
        if (rule, *span) in self._seen:
            return
        self._seen.add((rule, *span))
        it = self._program.rules[rule]
        found.append(
            Finding(
                rule=it.id,
                category=it.category,
                technique=it.technique,
                score=it.score,
                surface=self._scope.surface,
                path=self._path,
                span=span,
                detector="rules",
                detector_version=self._program.version,
            )
        )

    def _free(self) -> int:
        """Bytes of the field that no anchor holds."""
        view = self._views[0]
        size = view.base + len(view.tail)
        self._held = [held for held in self._held if size < held[1]]
        start = min((held[0] for held in self._held), default=size)
        begun = self._scope.begun(view.tail)
        start = min(start, size - begun)
        return self._received if start == size else self._reader.source(start)

    def _uninspected(self) -> Finding:
        return Finding(
            rule="shieldwall.uninspected.decode.1",
            category=Category.UNINSPECTED,
            score=0.0,
            surface=self._scope.surface,
            path=self._path,
            detector="rules",
            detector_version=self._program.version,
        )


def _has_spaced_letters(skeleton: bytes) -> bool:
    """Whether three single letters stand in a row, one or two separators between them."""
    classes = skeleton.translate(CLASSES)
    return any(row in classes for row in _SPACED)


def _next(form: _Form, order: int, window: bytes, floor: int, base: int) -> _Place | None:
    """The form's first hit that starts at or after `floor` (an offset in the window) and shows its disguise."""
    if form.kind != "spaced":
        floor = max(0, floor)
        while hit := form.matcher.first(form.pattern, form.data, floor):
            start, end = hit.start + form.leading, hit.end - form.trailing
            if form.kind == "plain" or window[start:end] != form.data[start:end]:
                return _Place(base + hit.end, order, base + start, base + end)
            floor = hit.start + 1
        return None
    floor = bisect_left(form.positions, floor)
    while hit := form.matcher.first(form.pattern, form.data, floor):
        start, end = form.positions[hit.start], form.positions[hit.end - 1] + 1
        if _has_spaced_letters(window[max(0, start - 1) : end + 1]):
            return _Place(base + end + 1, order, base + start, base + end)
        floor = hit.start + 1
    return None


def _pull_together(window: bytes) -> tuple[bytes, list[int]]:
    """Runs of single letters without their separators, a NUL after each run, and where each byte stood."""
    letters = bytearray()
    positions: list[int] = []
    # The first byte is context: what stood before it is not here, so no run may begin on it.
    for run in _RUN.finditer(window, 1):
        for position in range(run.start(), run.end()):
            if CLASSES[window[position]] in b"a0":
                letters.append(window[position])
                positions.append(position)
        letters.append(0)
        positions.append(run.end() - 1)
    return bytes(letters).translate(DELEET), positions
