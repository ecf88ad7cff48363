# SPDX-License-Identifier: Apache-2.0
"""Bytes as a proof file: an error of ours, or exactly what would be written; verified only if its entry is the one."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.cosignature import sign_checkpoint
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.proof_file import ProofFile, parse_proof, verify_proof, write_proof
from shieldwall.ledger.trust import parse_policy

__all__ = ["SEEDS", "fuzz"]

_LOG = SigningKey("example.org/log", KeyType.NOTE, b"l" * 32)
_POLICY = parse_policy(b"log %b\nquorum none\n" % str(_LOG.key).encode())
_LEAF, _SIBLING = (hashlib.sha256(bytes([0, number])).digest() for number in range(2))
_ROOT = hashlib.sha256(b"\1" + _LEAF + _SIBLING).digest()


def fuzz(data: bytes) -> None:
    """Read it, write it, verify it."""
    try:
        proof = parse_proof(data)
    except InvalidInput:
        return
    assert write_proof(proof) == data
    with suppress(InvalidInput):
        checkpoint = verify_proof(proof, _LEAF, _POLICY, check_inclusion=_included).checkpoint
        assert (proof.index, checkpoint.size, checkpoint.root) in {(0, 1, _LEAF), (0, 2, _ROOT)}


def _included(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Inclusion in a log of one or two entries, which is all the seeds have."""
    if size == 1:
        return not proof and leaf == root
    pair = (leaf, *proof) if index == 0 else (*proof, leaf)
    return size == 2 and len(pair) == 2 and hashlib.sha256(b"\1" + b"".join(pair)).digest() == root


_ONE = sign_checkpoint(Checkpoint("example.org/log", 1, _LEAF), [_LOG], 1)
_TWO = sign_checkpoint(Checkpoint("example.org/log", 2, _ROOT), [_LOG], 1)

SEEDS: list[bytes] = [
    write_proof(ProofFile(0, (), _ONE)),
    write_proof(ProofFile(0, (_SIBLING,), _TWO)),
    write_proof(ProofFile(1, (_LEAF,), _TWO, b"extra")),
    write_proof(ProofFile(73894, (_LEAF, _SIBLING) * 8, _TWO)),
]
"""Logs of one and two entries, extra data, and one that proves nothing."""
