# SPDX-License-Identifier: Apache-2.0
"""JSON as it came over the wire, and every string in it.

Coverage rule: every string leaf and every unknown member name becomes a segment; numbers, booleans, nulls and known
enumeration values pass. A body is refused where two parsers could read two different things out of it: duplicate member
names, invalid UTF-8, trailing bytes. The decoded value is a view only; the bytes themselves are what is forwarded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.core.event import Role, Segment, Surface, Trust
from shieldwall.core.verdict import Category, Finding

__all__ = ["MAX_DEPTH", "Leaves", "Place", "decode", "ordinal", "pointer", "refuse_duplicates", "uninspected"]

MAX_DEPTH = 64
"""Containers inside one another. Stock clients stay below 20; deeper input is an attack on some parser."""

MAX_FIELDS = 50_000
"""String leaves and member names of one message; 50,000 take about 0.1 s to judge."""

_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')


class Place(NamedTuple):
    """Who wrote a text, and where in the exchange it stands."""

    role: Role
    surface: Surface
    trust: Trust


class Leaves:
    """Collects the segments of one message, and what in it could not be inspected."""

    __slots__ = ("enumerations", "known", "members", "names", "segments", "uninspected")

    def __init__(self, known: frozenset[str], enumerations: Mapping[str, frozenset[str]]) -> None:
        self.known = known
        """Member names of the protocol; any other name is text somebody chose, and is inspected."""
        self.enumerations = enumerations
        """Member name -> values the protocol defines for it; only these pass uninspected."""
        self.segments: list[Segment] = []
        self.uninspected: list[Finding] = []
        self.names: set[int] = set()
        """Which of the segments are member names."""
        self.members = 0
        """Object members seen, to be compared with those the bytes hold."""

    def text(self, text: str, path: str, place: Place) -> None:
        """Take one string."""
        if text:
            if len(self.segments) >= MAX_FIELDS:
                raise LimitExceeded(f"more than {MAX_FIELDS} strings in one message", where=path)
            self.segments.append(Segment(text, place[0], place[1], place[2], path))

    def walk(self, value: Any, path: str, place: Place, depth: int = 0) -> None:  # noqa: ANN401  decoded JSON
        """Take every string below `value`, also the names of members the protocol does not define."""
        if isinstance(value, str):
            self.text(value, path, place)
        elif isinstance(value, dict):
            self.members += len(value)
            for name, item in value.items():
                self.member(name, item, f"{path}/{pointer(name)}", place, depth)
        elif isinstance(value, list):
            if depth >= MAX_DEPTH:
                raise LimitExceeded(f"nested deeper than {MAX_DEPTH}", where=path[:200])
            for index, item in enumerate(value):
                if item.__class__ not in _PLAIN:
                    self.walk(item, f"{path}/{index}", place, depth + 1)

    def member(self, name: str, item: Any, path: str, place: Place, depth: int = 0) -> None:  # noqa: ANN401
        """Take one member of an object whose count is already in `members`."""
        if name not in self.known:
            self.names.add(len(self.segments))
            self.text(name, path, place)
        kind = item.__class__
        if kind in _PLAIN:
            return
        if kind is str:
            values = self.enumerations.get(name)
            if values is None or item not in values:
                self.text(item, path, place)
            return
        if depth >= MAX_DEPTH:
            raise LimitExceeded(f"nested deeper than {MAX_DEPTH}", where=path[:200])
        self.walk(item, path, place, depth + 1)

    def binary(self, path: str, surface: Surface, what: str) -> None:
        """Name a part that carries no text we can read."""
        self.uninspected.append(uninspected(path, surface, what))


_PLAIN = frozenset({int, float, bool, type(None)})


def ordinal(value: Any, position: int) -> int:  # noqa: ANN401  decoded JSON
    """The `index` a streamed part names, or its position where it names none. `1.0` is 1, as it is to the clients."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else position


def uninspected(path: str, surface: Surface, what: str) -> Finding:
    """The finding that stands for a part nobody looked at: never a silent pass."""
    return Finding(
        rule=f"shieldwall.uninspected.{what}.1",
        category=Category.UNINSPECTED,
        score=0.0,
        surface=surface,
        path=path,
        detector="gateway",
        detector_version="1",
    )


def pointer(name: str) -> str:
    """A member name as a reference token of a JSON Pointer (RFC 6901 section 3)."""
    return name.replace("~", "~0").replace("/", "~1") if "~" in name or "/" in name else name


def decode(data: bytes) -> Any:  # noqa: ANN401  any JSON value
    """Decode JSON strictly.

    Raises:
        InvalidInput: Not JSON, not UTF-8, or bytes after the value. The message holds no part of the input.
        LimitExceeded: Nested too deep.
    """
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the JSON is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise LimitExceeded(f"nested deeper than {MAX_DEPTH}") from None
    except msgspec.MsgspecError as error:
        return _decode_slowly(data, str(error))


def _decode_slowly(data: bytes, reason: str) -> Any:  # noqa: ANN401  any JSON value
    """What the fast decoder refuses but clients do send: escaped lone surrogates, which Python's encoder writes."""
    if b"\\u" in data:
        try:
            value = json.loads(data.decode(), parse_constant=_no_constant)
            # Half of a surrogate pair is no character: in our view it becomes `?`, the bytes that pass keep it.
            # Two names that differ in such halves alone would become one, and hide what stands under the first.
            whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            return json.loads(whole, object_pairs_hook=_unique)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the JSON is not valid UTF-8 (byte {error.start})") from None
        except RecursionError:
            raise LimitExceeded(f"nested deeper than {MAX_DEPTH}") from None
        except ValueError:
            pass
    place = re.search(r"\(byte \d+\)", reason)
    word = "it ends too early" if "truncated" in reason else "malformed"
    if "out of range" in reason:
        word = "a number is out of range"
    raise InvalidInput(f"the body is not JSON: {word}{' ' + place[0] if place else ''}", hint="send one JSON object")


def _no_constant(name: str) -> None:
    raise ValueError(name)


def refuse_duplicates(data: bytes, members: int) -> None:
    """Refuse a message in which an object has two members of one name.

    The decoder keeps the last, other parsers the first: what we judged would not be what the model reads. Cheap in the
    common case: every member has a quote and a colon, so a count that equals the members seen proves there is no more.

    Raises:
        InvalidInput: A name occurs twice in one object.
    """
    if data.count(b'":') + (len(_SPACED_COLON.findall(data)) if _may_space(data) else 0) == members:
        return
    try:
        json.loads(data.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise LimitExceeded(f"nested deeper than {MAX_DEPTH}") from None


def _may_space(data: bytes) -> bool:
    return b'" ' in data or b'"\t' in data or b'"\n' in data or b'"\r' in data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInput("an object has two members of the same name", hint="send each member once")
    return found
