# SPDX-License-Identifier: Apache-2.0
"""Bytes as a verifier key or as the text of a private key: an error of ours, or just what would be written."""

from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.keys import KeyType, SigningKey, encode_key, parse_key, parse_vkey

__all__ = ["SEEDS", "fuzz"]

_KEYS = [SigningKey("example.org/a", kind, bytes(range(32))) for kind in KeyType]


def fuzz(data: bytes) -> None:
    """Read it both ways, with lone surrogates in it where the bytes are not UTF-8."""
    text = data.decode(errors="surrogateescape")
    with suppress(InvalidInput):
        assert str(parse_vkey(text)) == text
    with suppress(InvalidInput):
        assert encode_key(parse_key(text)) == text


SEEDS: list[bytes] = [
    *(str(key.key).encode() for key in _KEYS),
    *(encode_key(key).encode() for key in _KEYS),
]
"""Each type, public and private."""
