# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as an entry bundle and as a proof: hashed alike by both hashers, or refused with an error of ours.

The input is taken as a bundle, as a row of hashes, and as three numbers, two hashes and a proof. A proof that passes
has the length the sizes ask for: nothing is left over in which a stranger could hide something.
"""

import contextlib

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    MAX_PROOF_HASHES,
    Frontier,
    PlainHasher,
    check_consistency,
    check_inclusion,
    check_subtree,
    leaf_hash,
    node_hash,
)
from shieldwall.ledger.merkle_kernels import FastHasher

_NUMBER_BYTES = 8
_LEAF = leaf_hash(b"")
_ROOT = node_hash(_LEAF, _LEAF)
_PLAIN = PlainHasher()
_FAST = FastHasher()


def _statement(start: int, end: int, size: int, *hashes: bytes) -> bytes:
    return b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in (start, end, size)) + b"".join(hashes)


SEEDS: list[bytes] = [
    b"",
    b"\x00\x00",
    b"\x00\x03abc\x00\x00",
    b"\x00\x03ab",
    b"\x00",
    (b"\x00\x40" + b"e" * 64) * 40,
    _LEAF * 60,
    _LEAF * 60 + b"\x00",
    _statement(0, 1, 2, _LEAF, _ROOT, _LEAF),
    _statement(1, 2, 2, _LEAF, _ROOT, _LEAF),
    _statement(0, 2, 3, _ROOT, node_hash(_ROOT, _LEAF), _LEAF),
    _statement(0, 3, 4, node_hash(_ROOT, _LEAF), node_hash(_ROOT, _ROOT), _LEAF, _LEAF, _ROOT),
    _statement(0, 0, 0, EMPTY_ROOT, EMPTY_ROOT),
    _statement(0, 1, (1 << 64) - 1, _LEAF, _ROOT, *[_LEAF] * 63),
    _statement(0, (1 << 63) - 1, (1 << 63) - 1, _ROOT, _ROOT),
    _statement(2, 3, 1, _LEAF, _ROOT)[:-1],
]


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    assert _outcome(_PLAIN, data) == _outcome(_FAST, data)
    with contextlib.suppress(InvalidInput):
        frontier = Frontier()
        frontier.extend(data, _FAST)
        assert frontier.size * HASH_BYTES == len(data)
    numbers = [
        int.from_bytes(data[at : at + _NUMBER_BYTES], "big") for at in range(0, 3 * _NUMBER_BYTES, _NUMBER_BYTES)
    ]
    rest = data[3 * _NUMBER_BYTES :]
    hashes = [rest[at : at + HASH_BYTES] for at in range(0, len(rest), HASH_BYTES)]
    found, root = [*hashes, b"", b""][:2]
    _prove(*numbers, found, root, hashes[2:])


def _outcome(hasher: PlainHasher | FastHasher, data: bytes) -> list[bytes | str]:
    outcome: list[bytes | str] = []
    for work in (hasher.bundle, hasher.nodes):
        try:
            outcome.append(work(data))
        except InvalidInput as error:
            outcome.append(str(error))
    return outcome


def _prove(start: int, end: int, size: int, found: bytes, root: bytes, proof: list[bytes]) -> None:
    with contextlib.suppress(InvalidInput):
        check_inclusion(found, start, size, root, proof)
        assert start < size
        assert len(proof) <= MAX_PROOF_HASHES
    with contextlib.suppress(InvalidInput):
        check_consistency(end, found, size, root, proof)
        assert end <= size
        assert proof or found == root or end == 0
    with contextlib.suppress(InvalidInput):
        check_subtree(start, end, found, size, root, proof)
        assert start < end <= size
        assert proof or found == root
