# SPDX-License-Identifier: Apache-2.0
"""Canonical bytes are the same for the same value everywhere, and nothing without such bytes gets any."""

import enum
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.codec import MAX_DEPTH, MAX_INTEGER, canonical, digest, parse
from shieldwall.core.errors import InvalidInput, LimitExceeded

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def reference(value: Any) -> str:
    """RFC 8785 written a second time, with the standard library's string escapes."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{reference(name)}:{reference(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(reference, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(VALUES)
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    """Against a second writing of the rules, for any value: order, escapes, no white space, UTF-8."""
    assert canonical(value) == reference(value).encode()


@given(VALUES)
def test_canonical_bytes_read_back(value: Any) -> None:
    """`parse` gives the value back, and takes no other writing of it."""
    data = canonical(value)

    assert parse(data) == value
    with pytest.raises(InvalidInput):
        parse(data + b" ")


def test_members_are_sorted_by_utf_16_code_units() -> None:
    """The example of RFC 8785 section 3.2.3, where sorting by code points would put the emoji after U+FB33."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]

    data = canonical(dict.fromkeys(names, 0))

    assert list(json.loads(data)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_nested_members_are_sorted_too() -> None:
    """The slow way, taken for names beyond ASCII, reaches every depth."""
    value = {"a": [{"\ufb33": 1, "\U0001f600": 2, "b": {"z": 1, "y": (1, None)}}]}

    assert canonical(value) == '{"a":[{"b":{"y":[1,null],"z":1},"\U0001f600":2,"\ufb33":1}]}'.encode()


def test_control_characters_are_escaped_as_the_rfc_says() -> None:
    """Short escapes where there are some, lower-case hex elsewhere, and nothing that needs none."""
    assert canonical('\x00\x08\t\n\x0b\x0c\r\x1f"\\/\x7f\u2028') == (
        b'"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f\xe2\x80\xa8"'
    )


class Word(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**70, "\ud800", {"\udc00": 1}, {1: 2}, b"x", {1}, Word.A,
     [{"a": 0.5}], {"\u00e9": "\ud800"}, object()],
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """Floats, integers others would round, half characters, and types whose writing is theirs to decide."""
    with pytest.raises(InvalidInput):
        canonical(value)


def test_the_greatest_integers_pass() -> None:
    """The bounds themselves are inside."""
    assert canonical([MAX_INTEGER, -MAX_INTEGER]) == b"[9007199254740991,-9007199254740991]"


def test_depth_is_bounded_both_ways() -> None:
    """A value may nest to the bound and no deeper, also when it comes as bytes."""
    fits: Any = 0
    for _ in range(MAX_DEPTH):
        fits = [fits]

    assert parse(canonical(fits)) == fits
    with pytest.raises(LimitExceeded):
        canonical([fits])
    with pytest.raises(InvalidInput):
        parse(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nul", b"\xff", b'"\xed\xa0\x80"', b'"\\ud800"', b'{"a":1,"a":1}', b'{"b":1,"a":2}', b"1.0", b"1e2",
     b"[1, 2]", b'"\\u0041"', b"-0", b"9007199254740992", b"NaN"],
)  # fmt: skip
def test_any_other_writing_is_refused(data: bytes) -> None:
    """Not JSON, or JSON that `canonical` would have written otherwise."""
    with pytest.raises(InvalidInput):
        parse(data)


def test_an_error_does_not_repeat_the_input() -> None:
    """The parser's message may quote what it read; ours must not."""
    with pytest.raises(InvalidInput) as caught:
        parse(b'{"password": hunter2}')

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_digest_is_sha_256() -> None:
    """FIPS 180-4, message `abc`."""
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"") == hashlib.sha256().digest()
