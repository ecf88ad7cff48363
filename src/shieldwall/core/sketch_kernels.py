# SPDX-License-Identifier: Apache-2.0
"""The fast way from letters to keyed values: numba, imported only where sketches are made.

Bit by bit what the plain functions of `core.sketch` give; a test holds the two together. Compiled once per machine and
kept beside this file or where NUMBA_CACHE_DIR says.
"""

from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast

import numba
import numpy as np

from shieldwall.core.sketch import SHINGLE, Key, Sketch, letters

__all__ = ["FastSketcher", "kernel", "permuted", "public_fingerprints"]

Array: TypeAlias = Any
"""A numpy array; kernels are typed by what they are called with."""
Word: TypeAlias = Any
"""A numpy uint64."""
P = ParamSpec("P")
R = TypeVar("R")

_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_LOW: Final = np.uint64(0xFFFFFFFF)
_NONE: Final = np.uint64(0)
_ONE: Final = np.uint64(1)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, or load what an earlier process compiled. Keeps the GIL: a call happens as a whole."""
    return cast("Callable[P, R]", numba.njit(cache=True)(function))


@kernel
def _mix(value: Word) -> Word:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel
def _fingerprints(codes: Array, size: int, power: Word, out: Array) -> None:
    """Rolling sum over `size` code points; `power` is the base to that power, to take out what leaves.

    The size is an argument, as compiled code is kept by this file's date alone.
    """
    sum_ = _NONE
    barred = 0
    for place in range(codes.shape[0]):
        code = np.uint64(codes[place])
        sum_ = sum_ * _BASE + _mix(code + _BASE)
        if code == _NONE:
            barred = size
        if place >= size:
            sum_ -= _mix(np.uint64(codes[place - size]) + _BASE) * power
        if place >= size - 1:
            value = _mix(sum_)
            if value == _NONE:
                value = _ONE
            out[place - size + 1] = _NONE if barred > 0 else value
        barred -= 1


@kernel
def _fill(items: Array, slots: Array) -> None:
    """Put numbers into an open hash table; its size is a power of two and at least twice their count."""
    mask = np.uint64(slots.shape[0] - 1)
    for item in items:
        slot = item & mask
        while slots[slot] not in (_NONE, item):
            slot = (slot + _ONE) & mask
        slots[slot] = item


@kernel
def _subtract(values: Array, slots: Array) -> None:
    """Zero what is in the table."""
    mask = np.uint64(slots.shape[0] - 1)
    for place in range(values.shape[0]):
        value = values[place]
        slot = value & mask
        while slots[slot] != _NONE:
            if slots[slot] == value:
                values[place] = _NONE
                break
            slot = (slot + _ONE) & mask


@kernel
def _permute(values: Array, rounds: Array) -> None:
    """Speck64/128 on all values but zeros, in place; round by round, so that lanes run side by side."""
    count = values.shape[0]
    left = np.empty(count, np.uint32)
    right = np.empty(count, np.uint32)
    for place in range(count):
        left[place] = np.uint32(values[place] >> np.uint64(32))
        right[place] = np.uint32(values[place] & _LOW)
    for turn in range(rounds.shape[0]):
        key = rounds[turn]
        for place in range(count):
            one, two = left[place], right[place]
            one = np.uint32(np.uint32(np.uint32(one >> np.uint32(8)) | np.uint32(one << np.uint32(24))) + two) ^ key
            left[place] = one
            right[place] = np.uint32(np.uint32(two << np.uint32(3)) | np.uint32(two >> np.uint32(29))) ^ one
    for place in range(count):
        if values[place] != _NONE:
            values[place] = (np.uint64(left[place]) << np.uint64(32)) | np.uint64(right[place])


_POWER: Final = np.uint64(pow(int(_BASE), SHINGLE, 1 << 64))


def public_fingerprints(text: str) -> Array:
    """What `core.sketch.fingerprints` gives for the letters of a text, as a uint64 array."""
    codes = np.frombuffer(letters(text).encode("utf-32-le"), np.uint32)
    found = np.empty(max(len(codes) - SHINGLE + 1, 0), np.uint64)
    _fingerprints(codes, SHINGLE, _POWER, found)
    return found


class FastSketcher:
    """Implements `core.sketch.Sketcher`. Immutable; safe to share between threads."""

    def __init__(self, key: Key, common: bytes = b"") -> None:
        self.key = key
        self._rounds = np.array(key.rounds, np.uint32)
        items = np.frombuffer(common, "<u8")
        self._common = np.zeros(1 << (2 * len(items) + 1).bit_length(), np.uint64)
        _fill(items[items != 0], self._common)

    def sketch(self, text: str) -> Sketch:
        """See `Sketcher.sketch`."""
        values = public_fingerprints(text)
        _subtract(values, self._common)
        _permute(values, self._rounds)
        return Sketch(self.key.id, values.astype("<u8", copy=False).tobytes())


def permuted(fingerprints: Array, key: Key) -> Array:
    """Public fingerprints, a uint64 array, under a key."""
    values = np.array(fingerprints, np.uint64)
    _permute(values, np.array(key.rounds, np.uint32))
    return values
