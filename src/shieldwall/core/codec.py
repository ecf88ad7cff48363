# SPDX-License-Identifier: Apache-2.0
"""One value, one sequence of bytes: what is hashed, signed or logged is written here.

Canonical JSON as RFC 8785 has it: members sorted by UTF-16 code units, no white space, UTF-8. Floats are refused and
integers stay in the range every JSON reader keeps exactly, so no question of number formatting can arise.
Knows nothing of what the bytes mean; `entry` does.
"""

import hashlib
from typing import Any, TypeAlias

import msgspec

from shieldwall.core.errors import InvalidInput, LimitExceeded

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "Value", "canonical", "digest", "parse"]

Value: TypeAlias = Any
"""None, bool, int, str, a list or tuple of values, or a dict from str to values. Recursive types are `Any` to mypy."""

MAX_INTEGER = 2**53 - 1
"""Greatest integer, and its negative the least: the range in which RFC 7493 section 2.2 promises exactness."""

MAX_DEPTH = 64
"""Arrays and objects inside each other. Our own values nest five deep; the bound keeps hostile ones off the C stack."""

_SORTED = msgspec.json.Encoder(order="sorted")
_AS_GIVEN = msgspec.json.Encoder()


def canonical(value: Value) -> bytes:
    """Canonical bytes of a value (RFC 8785).

    Args:
        value: None, bool, int, str, list, tuple (written as an array), or dict with str keys; subclasses are refused,
            because what they print is theirs to decide.

    Raises:
        InvalidInput: A float, an integer beyond `MAX_INTEGER`, a lone surrogate, or any other type.
        LimitExceeded: Nested deeper than `MAX_DEPTH`.
    """
    try:
        # A string alone, the usual value of a field, has nothing to check and nothing to sort.
        if type(value) is str or _sorts_by_bytes(value, 0):
            return _SORTED.encode(value)
        return _AS_GIVEN.encode(_ordered(value))
    except UnicodeEncodeError:
        raise InvalidInput("a string holds a lone surrogate, which UTF-8 cannot carry") from None


def digest(data: bytes) -> bytes:
    """SHA-256 of bytes, 32 bytes."""
    return hashlib.sha256(data).digest()


def parse(data: bytes) -> Value:
    """Read canonical bytes back.

    Raises:
        InvalidInput: Not JSON, or JSON written in any other way than `canonical` writes it, repeated members included.
        LimitExceeded: Nested deeper than `MAX_DEPTH`.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # The parser's own message may quote the input; ours must not.
        raise InvalidInput("not JSON") from None
    if canonical(value) != data:
        raise InvalidInput("JSON is not in canonical form", hint="write it as RFC 8785 says")
    return value


def _sorts_by_bytes(value: Value, depth: int) -> bool:
    """Check a value, and say whether the encoder's own order, that of UTF-8 bytes, is the order of RFC 8785.

    The two differ only where a character beyond U+FFFF meets one from U+E000 on; any key that is not ASCII takes the
    slow way.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise InvalidInput("an integer is beyond 2^53 - 1, where JSON readers begin to differ")
        return True
    if depth >= MAX_DEPTH:
        raise LimitExceeded(f"a value nests deeper than {MAX_DEPTH}")
    plain = True
    if kind is dict:
        for key, member in value.items():
            if type(key) is not str:
                raise InvalidInput("the name of a member is not a string")
            plain &= key.isascii()
            plain &= _sorts_by_bytes(member, depth + 1)
        return plain
    if kind is list or kind is tuple:
        for member in value:
            plain &= _sorts_by_bytes(member, depth + 1)
        return plain
    raise InvalidInput(f"{kind.__name__} has no canonical form", hint="use integers and strings")


def _ordered(value: Value) -> Value:
    """Put the members of all objects in order of their UTF-16 code units (RFC 8785 section 3.2.3)."""
    if type(value) is dict:
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return {name: _ordered(value[name]) for name in names}
    if type(value) in (list, tuple):
        return [_ordered(member) for member in value]
    return value
