# SPDX-License-Identifier: Apache-2.0
"""Bytes as a signed note, or as the signature lines a witness answers with: an error of ours, or they can be written.

And only the very text that was signed is ever verified.
"""

from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey
from shieldwall.ledger.note import (
    Signature,
    parse_note,
    parse_signatures,
    sign_note,
    verify_note,
    write_note,
    write_signatures,
)

__all__ = ["SEEDS", "fuzz"]

_KEY = SigningKey("example.org/a", KeyType.NOTE, bytes(range(32)))
_TEXTS = (b"one line\n", "several\n\nlines, é\n".encode(), b"\n")


def fuzz(data: bytes) -> None:
    """Read it both ways, write it again, verify it."""
    with suppress(InvalidInput):
        lines = parse_signatures(data)
        assert parse_signatures(write_signatures(lines)) == lines
    try:
        note = parse_note(data)
    except InvalidInput:
        return
    assert data.startswith(note.text + b"\n")
    assert parse_note(write_note(note.text, note.signatures)) == note
    try:
        found = verify_note(note, [_KEY.key])
    except NotVerified:
        return
    assert note.text in _TEXTS
    assert {each.key for each in found} == {_KEY.key}


SEEDS: list[bytes] = [
    *(write_note(text, [sign_note(text, _KEY)]) for text in _TEXTS),
    write_note(_TEXTS[0], [Signature("w.example/1", 7, bytes(72)), sign_note(_TEXTS[0], _KEY)]),
    write_signatures([Signature("w.example/1", 7, bytes(72)), Signature("é", 0, b"x")]),
]
"""Notes of one key, one with a line of another, and lines alone."""
