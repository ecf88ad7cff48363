# SPDX-License-Identifier: Apache-2.0
"""A streamed answer, judged as it passes.

Every string of every event continues the field it belongs to, so a text cut over many events is judged as the one text
the client will read. An event leaves when every field it touches has released up to it, in order; a tool call's events
leave when the call is whole. Nothing is re-written: the bytes that leave are the bytes that came.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shieldwall.core.errors import Error, LimitExceeded
from shieldwall.core.event import Event, Role, Segment, Surface, Trust
from shieldwall.core.guard import Guard
from shieldwall.core.ports import StreamJudge
from shieldwall.core.verdict import Category, Decision, Finding
from shieldwall.gateway.dialect import Delta, Dialect
from shieldwall.gateway.mould import Mould, cast
from shieldwall.gateway.settings import Settings
from shieldwall.gateway.sse import EventReader, ServerEvent, parse_event
from shieldwall.gateway.wire import Place, decode, refuse_duplicates, uninspected

__all__ = ["Gate"]

_MAX_FIELDS = 4_096
"""Fields of one stream. A stock answer has fewer than 50."""

_MAX_CASTS = 32
"""Moulds that are tried for one stream: one in which no two events are alike is read event by event."""

_ALL = 1 << 62


class _Field:
    __slots__ = ("fed", "judge", "over", "path", "released", "whole_only")

    def __init__(self, path: str, judge: StreamJudge, *, whole_only: bool) -> None:
        self.path = path
        self.judge = judge
        self.fed = 0
        self.released = 0
        self.over = False
        self.whole_only = whole_only
        """Nothing of it leaves before all of it was judged: tool calls."""


class _Waiting(NamedTuple):
    raw: bytes
    marks: Sequence[tuple[_Field, int]]


class Gate:
    """One stream's judge. `feed` raw bytes, send what it returns; `end` when the upstream is done."""

    def __init__(self, guard: Guard, event: Event, dialect: Dialect, settings: Settings, *, enforce: bool) -> None:
        self.findings: list[Finding] = []
        self.stopped: Decision | None = None
        """Set when the policy wants the stream to end here; nothing more will leave."""
        self.ending = False
        """The stream announced its end: what is left waits for the record."""
        self._guard = guard
        self._event = event
        self._dialect = dialect
        self._enforce = enforce
        self._max_held = settings.max_held_bytes
        self._reader = EventReader(settings.max_event_bytes)
        self._fields: dict[str, _Field] = {}
        self._constant: dict[str, str] = {}
        self._named: set[tuple[str, str]] = set()
        self._waiting: deque[_Waiting] = deque()
        self._held = 0
        self._hold_calls = enforce
        self._mould: Mould | None = None
        self._casts = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the upstream; returns those that may leave now.

        Raises:
            LimitExceeded: One event, or the number of fields, is over its limit.
        """
        if self.stopped is not None:
            return b""
        out: list[bytes] = []
        run: list[tuple[bytes, bytes]] = []
        for raw in self._reader.cut(data):
            texts = self._mould.fit(raw) if self._mould is not None else None
            if texts is not None and len(texts) == 1:
                run.append((raw, texts[0]))
                continue
            self._pour(run, out)
            if self.stopped is None:
                if texts is None:
                    self._take(parse_event(raw), out)
                else:
                    self._fill(raw, texts, out)
            if self.stopped is not None:
                # What came before the stop may leave: how the bytes were cut must not decide that.
                break
        self._pour(run, out)
        return b"".join(out) if len(out) != 1 else out[0]

    def end(self) -> bytes:
        """The upstream is done: judge what is left and return it; it may leave once the record is on disk."""
        out: list[bytes] = []
        last = self._reader.end()
        if last is not None:
            self._take(last, out)
        found: list[Finding] = []
        for field in self._fields.values():
            found.extend(self._finish(field))
        self._found(found)
        out.extend(waiting.raw for waiting in self._waiting)
        self._waiting.clear()
        return b"" if self.stopped is not None else b"".join(out)

    def _pour(self, run: list[tuple[bytes, bytes]], out: list[bytes]) -> None:
        """Judge events in a row that differ in one text alone, as one text where nothing can be found in it."""
        if not run or self._mould is None:
            return
        hole = self._mould.holes[0]
        field = self._fields.get(hole.path) if hole.grows else None
        # What waits is counted event by event, and its limit must not depend on how the bytes came.
        fits = not self._waiting and sum(len(raw) for raw, _ in run) <= self._max_held
        release = field.judge.skim(b"".join(text for _, text in run)) if field is not None and fits else None
        for raw, text in run:
            if field is None or release is None:
                self._fill(raw, [text], out)
                if self.stopped is not None:
                    break
            else:
                field.fed += len(text)
                if not field.whole_only:
                    field.released = release
                self._pass(raw, ((field, field.fed),), out)
        run.clear()

    def _fill(self, raw: bytes, texts: list[bytes], out: list[bytes]) -> None:
        """Judge the texts of one event that fits the mould."""
        marks: list[tuple[_Field, int]] = []
        found: list[Finding] = []
        for hole, text in zip(self._mould.holes if self._mould else (), texts, strict=True):
            delta = Delta(hole.path, text.decode(), hole.place, hole.grows)
            if hole.grows:
                self._grow(delta, marks, found)
            else:
                self._whole([delta], found)
        if found:
            self._found(found)
            if self.stopped is not None:
                return
        self._pass(raw, marks, out)

    def _take(self, event: ServerEvent, out: list[bytes]) -> None:
        self._mould = None
        marks: list[tuple[_Field, int]] = []
        found: list[Finding] = []
        if event.other:
            self._grow(_loose(event.other), marks, found)
            if "\ufffd" in event.other:
                # Bytes that are no text between events: whoever takes them for something else was not protected.
                found.append(uninspected("", Surface.RESPONSE, "framing"))
        if self._dialect.is_last(event.name, event.data):
            self.ending = True
        if event.data and event.data != b"[DONE]":
            self._read(event, marks, found)
        else:
            self._whole([Delta("/event", event.name, _UNKNOWN, grows=False)], found)
        if found:
            self._found(found)
            if self.stopped is not None:
                return
        self._pass(event.raw, marks, out)

    def _pass(self, raw: bytes, marks: Sequence[tuple[_Field, int]], out: list[bytes]) -> None:
        """Let an event that was judged go, or wait for its turn."""
        if not self._enforce and not self.ending:
            out.append(raw)
        elif self._waiting or self.ending or not _released(marks):
            self._waiting.append(_Waiting(raw, marks))
            self._held += len(raw)
            self._release(out)
        else:
            out.append(raw)

    def _read(self, event: ServerEvent, marks: list[tuple[_Field, int]], found: list[Finding]) -> None:
        """Hand every string of an event to its field's judge."""
        try:
            value = decode(event.data)
            increment = self._dialect.deltas(event.name, value)
            refuse_duplicates(event.data, increment.members)
        except LimitExceeded:
            raise
        except Error:
            # Not JSON, or two readings of it: the client may still show it. Its text is judged as it stands, and the
            # event is named as one whose meaning nobody could check.
            found.append(uninspected("", Surface.RESPONSE, "framing"))
            self._whole([Delta("/event", event.name, _UNKNOWN, grows=False)], found)
            self._grow(_loose(event.data.decode("utf-8", "replace")), marks, found)
            return
        found.extend(increment.uninspected)
        if not (increment.uninspected or increment.complete or event.other or self.ending) and self._casts < _MAX_CASTS:
            self._casts += 1
            self._mould = cast(self._dialect, event.raw, increment.deltas, self._same(increment.deltas))
        for delta in increment.deltas:
            if delta.grows:
                self._grow(delta, marks, found)
        self._whole([delta for delta in increment.deltas if not delta.grows], found)
        for path in increment.complete:
            below = path + "/"
            for field in self._fields.values():
                if not field.over and (field.path == path or field.path.startswith(below)):
                    found.extend(self._finish(field))

    def _same(self, deltas: Sequence[Delta]) -> list[str]:
        """Paths of values that are what they were in the event before."""
        return [each.path for each in deltas if not each.grows and self._constant.get(each.path) == each.text]

    def _grow(self, delta: Delta, marks: list[tuple[_Field, int]], found: list[Finding]) -> None:
        field = self._fields.get(delta.path)
        if field is None:
            field = self._open(delta)
        elif field.over:
            # Text after its field was declared whole: a client may append it all the same. It is judged as a field of
            # its own, and named, since nobody can say how the two halves will be read together.
            found.append(uninspected(delta.path, delta.place.surface, "after_end"))
            field = self._open(delta)
        data = delta.text.encode("utf-8", "surrogatepass")
        release, new = field.judge.feed(data)
        field.fed += len(data)
        if not field.whole_only:
            field.released = release
        found.extend(new)
        marks.append((field, field.fed))

    def _whole(self, deltas: Sequence[Delta], found: list[Finding]) -> None:
        """Values that are all there, each judged by itself: joined to the one before, it would read otherwise."""
        news = []
        for delta in deltas:
            # Ids, model names and the like stand in every event; only a new value is news.
            if not delta.text or self._constant.get(delta.path) == delta.text:
                continue
            if len(self._constant) >= _MAX_FIELDS and delta.path not in self._constant:
                raise LimitExceeded(f"the stream has more than {_MAX_FIELDS} fields")
            self._constant[delta.path] = delta.text
            field = self._fields.get(delta.path)
            if field is not None and field.fed == len(delta.text.encode("utf-8", "surrogatepass")):
                # It may also be joined to what follows, and is the first piece: the field's own judge reads it.
                continue
            news.append(_segment(delta, delta.text))
        if news:
            new = self._guard.find(msgspec.structs.replace(self._event, segments=tuple(news)))
            # A value that changes with every event must not fill the record.
            found.extend(each for each in new if each.category is Category.UNINSPECTED or self._is_news(each))

    def _open(self, delta: Delta) -> _Field:
        if len(self._fields) >= _MAX_FIELDS:
            raise LimitExceeded(f"the stream has more than {_MAX_FIELDS} fields")
        whole_only = self._hold_calls and delta.place.surface is Surface.TOOL_CALL
        field = self._fields[delta.path] = _Field(delta.path, self._judge(delta), whole_only=whole_only)
        return field

    def _judge(self, delta: Delta) -> StreamJudge:
        return self._guard.stream(msgspec.structs.replace(self._event, segments=(_segment(delta, ""),)))

    def _finish(self, field: _Field) -> Sequence[Finding]:
        if field.over:
            return ()
        field.over = True
        field.released = _ALL
        return field.judge.end()

    def _found(self, found: Sequence[Finding]) -> None:
        fresh = [finding for finding in found if finding.category is not Category.UNINSPECTED or self._is_news(finding)]
        if not fresh:
            return
        self.findings.extend(fresh)
        if self._enforce:
            decision = self._guard.decide(self._event, self.findings)
            if decision.action.stops:
                self.stopped = decision

    def _is_news(self, finding: Finding) -> bool:
        """Whether this was not yet said: sound comes in a thousand pieces, one finding names it."""
        known = len(self._named)
        self._named.add((finding.rule, finding.path))
        return len(self._named) > known

    def _release(self, out: list[bytes]) -> None:
        """Let go what may leave, in order."""
        if self.ending:
            return
        waiting = self._waiting
        while waiting and _released(waiting[0].marks):
            raw = waiting.popleft().raw
            self._held -= len(raw)
            out.append(raw)
        if self._held > self._max_held:
            self._overfull(out)

    def _overfull(self, out: list[bytes]) -> None:
        """More is waiting than may be held: name it, and let the policy say whether it passes half-judged."""
        self._found([uninspected("", Surface.TOOL_CALL, "held")])
        if self.stopped is not None:
            return
        self._hold_calls = False
        for field in self._fields.values():
            field.whole_only = False
            field.released = _ALL
        out.extend(waiting.raw for waiting in self._waiting)
        self._waiting.clear()
        self._held = 0


def _segment(delta: Delta, text: str) -> Segment:
    place = delta.place
    return Segment(text, place.role, place.surface, place.trust, delta.path)


def _loose(text: str) -> Delta:
    """Text outside any message, such as comments. No client joins two of them, so a line end stands between."""
    return Delta("", text + "\n", _UNKNOWN, grows=True)


def _released(marks: Sequence[tuple[_Field, int]]) -> bool:
    return all(field.released >= mark for field, mark in marks)


_UNKNOWN = Place(Role.ASSISTANT, Surface.UNKNOWN, Trust.MODEL)
