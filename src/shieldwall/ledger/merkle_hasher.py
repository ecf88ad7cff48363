# SPDX-License-Identifier: Apache-2.0
"""Chooses who hashes the tree, by trying both on this machine. Both give the same bits.

OpenSSL hashes one message at a time with the processor's own SHA-256 instructions; the kernels hash many side by side
with plain ones. Which is faster depends on the width of the registers and on the length of the entries, so it is
measured here, at 256 entries of 512 bytes and at 256 nodes: three times each, about two milliseconds.
"""

import array
import sys
import time
from collections.abc import Callable

from shieldwall.ledger.merkle import HASH_BYTES, Buffer, Hasher, PlainHasher

__all__ = ["make_hasher"]

_TRIED = 256
_TRIED_BYTES = 512
_TRIES = 3


def make_hasher() -> Hasher:
    """The fastest hasher that is installed. The first one loads numba, which takes seconds; keep what it returns."""
    plain = PlainHasher()
    if sys.byteorder != "little":
        return plain  # the kernels read words as the machine has them
    try:
        from shieldwall.ledger.merkle_kernels import FastHasher
    except ImportError:
        return plain
    fast = FastHasher()
    data = bytes(_TRIED * _TRIED_BYTES)
    offsets = memoryview(array.array("q", range(0, len(data) + 1, _TRIED_BYTES)))
    nodes = bytes(2 * HASH_BYTES * _TRIED)
    return Chosen(
        _faster(plain, fast, lambda hasher: hasher.leaves(data, offsets[:-1], offsets[1:])),
        _faster(plain, fast, lambda hasher: hasher.nodes(nodes)),
    )


class Chosen:
    """Implements `Hasher` with one hasher for entries and one for nodes."""

    def __init__(self, entries: Hasher, pairs: Hasher) -> None:
        self._entries = entries
        self._pairs = pairs

    def leaves(self, data: Buffer, starts: Buffer, ends: Buffer) -> bytes:
        """See `Hasher.leaves`."""
        return self._entries.leaves(data, starts, ends)

    def bundle(self, data: Buffer) -> bytes:
        """See `Hasher.bundle`."""
        return self._entries.bundle(data)

    def nodes(self, hashes: Buffer) -> bytes:
        """See `Hasher.nodes`."""
        return self._pairs.nodes(hashes)


def _faster(one: Hasher, two: Hasher, work: Callable[[Hasher], object]) -> Hasher:
    work(two)  # compiles
    return min((one, two), key=lambda hasher: min(_seconds(work, hasher) for _ in range(_TRIES)))


def _seconds(work: Callable[[Hasher], object], hasher: Hasher) -> float:
    began = time.perf_counter()
    work(hasher)
    return time.perf_counter() - began
