# SPDX-License-Identifier: Apache-2.0
"""Bytes as a weight file of the fast tier: refused with ConfigError, or read, and then the tier judges with them.

Also as the array that stands inside such a file, which what packs it keeps most inputs from reaching.
"""

import io
import zipfile
from contextlib import suppress

from shieldwall.core.errors import ConfigError
from shieldwall.detect import FastTier, FastWeights, encode_fast
from shieldwall.detect.fast_file import decode
from tests.detect.weights import random_fast, telling_fast

__all__ = ["SEEDS", "fuzz"]

_TEXT = "the garden behind our house, KRAWOL 42 \u5ead\u306e\u8c46".encode()
_FIELDS = tuple(field for field in FastWeights._fields if field != "rows")
_WHOLE = encode_fast(telling_fast())


def _members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


_MEMBERS = _members()


def fuzz(data: bytes) -> None:
    """Try the bytes as a file, as each of two members of a file, and the same at a place inside a good file."""
    _try(data)
    for number in (0, len(data) % len(_FIELDS)):
        _try(_with(_FIELDS[number], data))
    place = int.from_bytes(data[:2], "big") % len(_WHOLE)
    _try(_WHOLE[:place] + data[2:10] + _WHOLE[place + len(data[2:10]) :])


def _with(field: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, member in _MEMBERS.items():
            archive.writestr(name, data if name == f"{field}.npy" else member)
    return out.getvalue()


def _try(data: bytes) -> None:
    with suppress(ConfigError):
        weights = decode(data, "x.npz")
        again = decode(encode_fast(weights), "x.npz")
        assert encode_fast(again) == encode_fast(weights)
        judged = FastTier(weights).judge(_TEXT)
        assert 0.0 <= judged.score <= 1.0
        assert 0.0 <= judged.harm <= 1.0
        assert 0 <= judged.span[0] < judged.span[1] <= len(_TEXT)


SEEDS: list[bytes] = [
    _WHOLE,
    encode_fast(random_fast(2))[:8_000],
    *(member for name, member in _MEMBERS.items() if name != "rows.npy"),
    b'{"slope": 1.0, "offset": -2.5, "harm_slope": 0.5, "harm_offset": 0.0, "version": "x"}',
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': True, 'shape': (8, 3), }".ljust(127) + b"\n",
    b"PK\x05\x06" + bytes(18),
]
"""A file, half a file, what stands in one, and the beginnings of such."""
