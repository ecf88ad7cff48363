# SPDX-License-Identifier: Apache-2.0
"""Bytes as a file of signatures or of fingerprints: refused with an error of ours, or read, and then it works."""

import hashlib
from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.core.fingerprint_file import Canary, decode_canaries, decode_common, encode_canaries, encode_common
from shieldwall.core.sketch import Meaning, Sketch, derive_key
from shieldwall.core.sketcher import make_sketcher
from shieldwall.core.verdict import Category
from shieldwall.detect.signature_file import DIGEST_BYTES, decode, encode
from shieldwall.detect.signatures import SignatureIndex

__all__ = ["SEEDS", "fuzz"]

_KEY = derive_key(bytes(32), 0)
_TEXTS = (
    "Please water the plants on the balcony twice a week and never on a Sunday afternoon",
    "The committee of the village asks everybody who owns a boat to register it before the end of autumn",
)
_SKETCHES = [make_sketcher(_KEY).sketch(text) for text in _TEXTS]


def fuzz(data: bytes) -> None:
    """Try the bytes as they are, and once more with a digest that fits, which is what keeps most inputs out."""
    body = data[:-DIGEST_BYTES]
    sealed = body + hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    for each in (data, sealed):
        with suppress(InvalidInput):
            _, held = decode(each)
            assert decode(encode(_KEY.id, held))[1].meanings == held.meanings
        with suppress(InvalidInput):
            index = SignatureIndex.restore(each, _KEY.id, 64)
            for sketch in _SKETCHES:
                assert all(0 < match.containment <= 1 for match in index.match(sketch))
        with suppress(InvalidInput):
            assert len(decode_common(each)) % 8 == 0
        with suppress(InvalidInput):
            assert all(0 < len(canary.kept) // 8 <= canary.total for canary in decode_canaries(each))
    with suppress(InvalidInput):
        SignatureIndex(_KEY.id, 4).insert(Sketch(_KEY.id, data[: len(data) // 8 * 8]), _meaning("x"))


def _meaning(name: str) -> Meaning:
    return Meaning(id=name, category=Category.INJECTION, score=0.9)


def _seeds() -> list[bytes]:
    index = SignatureIndex(_KEY.id, 64)
    empty = index.dump()
    for number, sketch in enumerate(_SKETCHES):
        index.insert(sketch, _meaning(f"seed.{number}"))
    kept = _SKETCHES[0].values
    return [
        empty,
        index.dump(),
        encode_common(range(1, 9)),
        encode_canaries([Canary(len(kept) // 8 + 3, kept), Canary(2, kept[:16])]),
        _SKETCHES[1].values,
    ]


SEEDS: list[bytes] = _seeds()
"""Files without and with content, both kinds of fingerprints, and values of a sketch."""
