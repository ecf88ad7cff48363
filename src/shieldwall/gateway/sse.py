# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: raw bytes in, whole events out, each with the very bytes it came in.

Source: WHATWG HTML, "Interpreting an event stream": lines end with CRLF, LF or CR; a blank line ends an event.
"""

import re
from typing import NamedTuple

from shieldwall.core.errors import LimitExceeded

__all__ = ["EventReader", "ServerEvent", "parse_event"]

_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One event of a stream."""

    raw: bytes
    """The bytes as received, the blank line included."""
    name: str
    data: bytes
    """Data lines joined with a line feed."""
    other: str
    """Comments, ids and unknown fields: text too, joined with line feeds."""


class EventReader:
    """Cuts a byte stream into events. Holds at most one unfinished event."""

    __slots__ = ("_first", "_held", "_limit")

    def __init__(self, limit: int) -> None:
        self._held = b""
        self._limit = limit
        self._first = True

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Events that are whole with these bytes, read. Raises as `cut` does."""
        return [parse_event(raw) for raw in self.cut(data)]

    def cut(self, data: bytes) -> list[bytes]:
        """The same as they came, blank line included.

        Raises:
            LimitExceeded: One event is larger than the limit.
        """
        held = self._held + data if self._held else data
        if self._first and held:
            if _BOM.startswith(held[:3]) and len(held) < len(_BOM):
                self._held = held
                return []
            self._first = False
        events: list[bytes] = []
        start = 0
        if b"\r" not in held:
            while (end := held.find(b"\n\n", start)) >= 0:
                events.append(held[start : end + 2])
                start = end + 2
        else:
            # A carriage return at the very end may be half of a line end; wait for the next byte.
            stop = len(held) - 1 if held.endswith(b"\r") else len(held)
            while (match := _BLANK.search(held, start, stop)) is not None:
                events.append(held[start : match.end()])
                start = match.end()
        self._held = held[start:]
        if len(self._held) > self._limit:
            raise LimitExceeded(f"one event of the stream is over {self._limit} bytes")
        return events

    def end(self) -> ServerEvent | None:
        """What was left when the stream ended: an event without its blank line, which clients may still read."""
        held, self._held = self._held, b""
        return parse_event(held) if held else None


def parse_event(raw: bytes) -> ServerEvent:
    """Read the lines of one event."""
    if raw.startswith(b"data: {") and raw.find(b"\n") == len(raw) - 2:
        return ServerEvent(raw, "", raw[6:-2], "")
    name = ""
    data: list[bytes] = []
    other: list[bytes] = []
    for line in _LINE.split(raw.removeprefix(_BOM)):
        field, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif line:
            other.append(value if colon and field in (b"", b"id", b"retry") else line)
    return ServerEvent(raw, name, b"\n".join(data), b"\n".join(other).decode("utf-8", "replace"))
