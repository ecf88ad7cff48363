# SPDX-License-Identifier: Apache-2.0
"""What the events of a stream have in common, so that the next one need not be read like the first.

A stock stream sends one event a hundred times, each with another piece of text in the same place. A mould is such an
event with holes where its texts were. An event that fits has the same JSON around the holes byte by byte, and in the
holes neither a quote, a backslash nor a control character: so it has the same structure, every string outside the holes
was judged already, and the texts are what stands in the holes.

A mould is believed only after its holes were filled with probes and the event, read in the ordinary way, gave the
probes back at the same places and nothing else new.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from shieldwall.core.errors import Error
from shieldwall.gateway.dialect import Delta, Dialect
from shieldwall.gateway.sse import parse_event
from shieldwall.gateway.wire import Place, decode

__all__ = ["Hole", "Mould", "cast"]

_PLAIN = re.compile(rb'[^"\\\x00-\x1f\x7f-\xff]*')
_FREE = frozenset({"/obfuscation"})
"""Values that differ from event to event and mean nothing to any reader: the padding of OpenAI's streams."""
_MAX_HOLES = 4
_MAX_BYTES = 8192
"""Of an event; a longer one is not one of hundreds."""


class Hole(NamedTuple):
    """Where a text stood."""

    path: str
    place: Place
    grows: bool


class Mould(NamedTuple):
    """An event without its texts: one literal more than there are holes."""

    literals: tuple[bytes, ...]
    holes: tuple[Hole, ...]

    def fit(self, raw: bytes) -> list[bytes] | None:
        """The texts of an event that fits, ASCII, one per hole; none if it does not."""
        literals = self.literals
        if not raw.startswith(literals[0]):
            return None
        texts = []
        at = len(literals[0])
        for literal in literals[1:]:
            end = raw.find(b'"', at)
            if end < 0 or not raw.startswith(literal, end):
                return None
            text = raw[at:end]
            if not _PLAIN.fullmatch(text):
                return None
            texts.append(text)
            at = end + len(literal)
        return texts if at == len(raw) else None


def cast(dialect: Dialect, raw: bytes, deltas: Sequence[Delta], constant: Sequence[str]) -> Mould | None:
    """The mould of an event, or none where it has no certain one.

    Args:
        dialect: Reads the probe.
        raw: The event as it came.
        deltas: What was read from it.
        constant: Paths whose texts are the same in every event so far; they stay literal.
    """
    wanted = [delta for delta in deltas if delta.grows or delta.path not in constant]
    paths = [delta.path for delta in deltas]
    if not 1 <= len(wanted) <= _MAX_HOLES or len(raw) > _MAX_BYTES:
        return None
    # A value that does not grow may decide how the event is read, as `type` does: a probe cannot stand for all of them.
    if any(not delta.grows and delta.path not in _FREE for delta in wanted):
        return None
    holes: list[tuple[int, int, Delta]] = []
    for delta in wanted:
        text = delta.text.encode("utf-8", "replace")
        quoted = b'"%b"' % text
        # Sound is judged by what it looks like, so its texts cannot be told apart from their place.
        if paths.count(delta.path) != 1 or "/audio" in delta.path:
            return None
        if not text or not _PLAIN.fullmatch(text) or raw.count(quoted) != 1:
            return None
        at = raw.index(quoted) + 1
        holes.append((at, at + len(text), delta))
    holes.sort()
    literals, start = [], 0
    for low, high, _ in holes:
        literals.append(raw[start:low])
        start = high
    mould = Mould((*literals, raw[start:]), tuple(Hole(each.path, each.place, each.grows) for _, _, each in holes))
    return mould if _holds(mould, dialect, deltas) else None


def _holds(mould: Mould, dialect: Dialect, deltas: Sequence[Delta]) -> bool:
    """Whether probes in the holes come back from the ordinary reading, and all else as it was."""
    probes = {hole.path: f"probe{number}x" for number, hole in enumerate(mould.holes)}
    filled = b"".join(
        literal + probe.encode() for literal, probe in zip(mould.literals, (*probes.values(), ""), strict=True)
    )
    event = parse_event(filled)
    try:
        read = dialect.deltas(event.name, decode(event.data))
    except Error:
        return False
    expected = [delta._replace(text=probes.get(delta.path, delta.text)) for delta in deltas]
    return not read.uninspected and not read.complete and not event.other and read.deltas == expected
