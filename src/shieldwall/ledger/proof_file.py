# SPDX-License-Identifier: Apache-2.0
"""A receipt that stands alone: index, inclusion proof and witnessed checkpoint in one text, a `.tlog-proof` file.

C2SP tlog-proof: whoever has the entry, this file and a trust policy knows, without asking anyone, that the entry is in
a log that the witnesses watch. The checkpoint is kept as it was served, byte for byte.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.ledger.checkpoint import parse_checkpoint, parse_number
from shieldwall.ledger.keys import NotVerified, VKey, decode_base64, encode_base64
from shieldwall.ledger.merkle import HASH_BYTES, MAX_PROOF_HASHES, MAX_SIZE
from shieldwall.ledger.note import MAX_NOTE_BYTES, parse_note
from shieldwall.ledger.trust import Policy, TrustedCheckpoint, verify_checkpoint

__all__ = [
    "MAX_EXTRA_BYTES",
    "CheckInclusion",
    "ProofFile",
    "parse_proof",
    "verify_proof",
    "write_proof",
]

MAX_EXTRA_BYTES = 65_536
"""Longest extra data; it is for the application, and ours writes none."""

_HEAD = "c2sp.org/tlog-proof@v1"
_MAX_BYTES = MAX_NOTE_BYTES + 4 * MAX_EXTRA_BYTES
"""Beside the checkpoint: extra data in base64, 63 hashes of 45 bytes, and the words."""

CheckInclusion = Callable[[bytes, int, int, bytes, Sequence[bytes]], bool | None]
"""Leaf hash, index, size, root, proof (`merkle.check_inclusion`). Raises, or gives False, where the proof fails."""


class ProofFile(msgspec.Struct, frozen=True):
    """A proof as read. Nothing in it is verified, and `extra` never is."""

    index: int
    """Place of the entry in the log, from 0."""
    hashes: tuple[bytes, ...]
    """32 bytes each, from the leaf's sibling up to the root's child."""
    checkpoint: bytes
    """The signed note, as served."""
    extra: bytes = b""
    """Opaque data of the application: nobody signed it."""


def write_proof(proof: ProofFile) -> bytes:
    """Write the file.

    Raises:
        InvalidInput: `parse_proof` would not take it; LimitExceeded where it is too long.
    """
    _check(proof)
    lines = [_HEAD]
    if proof.extra:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines += [f"index {proof.index}", *map(encode_base64, proof.hashes), "", ""]
    return "\n".join(lines).encode() + proof.checkpoint


def parse_proof(data: bytes) -> ProofFile:
    """Read a file. There is one way to write it, and only that is read.

    Raises:
        InvalidInput: It is no such file, or its checkpoint is none; LimitExceeded where it is too long.
    """
    if len(data) > _MAX_BYTES:
        raise LimitExceeded(f"the proof is over {_MAX_BYTES} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    if not blank:
        raise InvalidInput("the proof has no blank line before its checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise InvalidInput("the proof has letters outside ASCII before its checkpoint") from None
    if lines[0] != _HEAD:
        raise InvalidInput(f"the first line of the proof is not {_HEAD}", hint="is this a .tlog-proof file?")
    extra = b""
    if len(lines) > 1 and lines[1].startswith("extra "):
        extra = decode_base64(lines.pop(1).removeprefix("extra ")) or b""
        if not extra:
            raise InvalidInput("line 2 of the proof has extra data that is empty or not base64")
    word, _, index = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
    if word != "index":
        raise InvalidInput("the proof has no line with its index after the first line and the extra data")
    if len(lines) - 2 > MAX_PROOF_HASHES:
        raise LimitExceeded(f"the proof has over {MAX_PROOF_HASHES} hashes")
    hashes = tuple(_hash(line, number) for number, line in enumerate(lines[2:], 1))
    proof = ProofFile(parse_number(index, "the index of the proof"), hashes, checkpoint, extra)
    _check(proof)
    return proof


def verify_proof(
    proof: ProofFile,
    leaf_hash: bytes,
    policy: Policy,
    *,
    check_inclusion: CheckInclusion,
    logs: Iterable[VKey] = (),
) -> TrustedCheckpoint:
    """Verify, offline, that an entry is in a log as the policy demands.

    Args:
        proof: The file.
        leaf_hash: SHA-256(00, entry) of the entry in question, computed by the caller from the entry itself.
        policy: Whom to trust.
        check_inclusion: The Merkle check.
        logs: Keys of the one log the caller has in mind, see `trust.verify_checkpoint`.

    Returns:
        The checkpoint the entry is under, who signed and cosigned it, and when.

    Raises:
        NotVerified: The checkpoint is not trusted, or the entry is not under its root at this index.
        InvalidInput: Its checkpoint is none, or what `check_inclusion` raises.
    """
    trusted = verify_checkpoint(policy, proof.checkpoint, logs=logs)
    checkpoint = trusted.checkpoint
    if proof.index >= checkpoint.size:
        raise NotVerified("the index of the proof is not below the size of its checkpoint")
    answer = check_inclusion(leaf_hash, proof.index, checkpoint.size, checkpoint.root, proof.hashes)
    if answer is not None and not answer:
        raise NotVerified("the entry is not in the log at the index of the proof")
    return trusted


def _check(proof: ProofFile) -> None:
    """Raise InvalidInput where it could not be written so that it reads back the same."""
    if not 0 <= proof.index <= MAX_SIZE:
        raise InvalidInput("the index of a proof is not in 0 to 2^63 - 1")
    if len(proof.hashes) > MAX_PROOF_HASHES or len(proof.extra) > MAX_EXTRA_BYTES:
        raise LimitExceeded(
            f"a proof has over {MAX_PROOF_HASHES} hashes, or over {MAX_EXTRA_BYTES} bytes of extra data"
        )
    if any(len(each) != HASH_BYTES for each in proof.hashes):
        raise InvalidInput(f"a hash of a proof has not {HASH_BYTES} bytes")
    parse_checkpoint(parse_note(proof.checkpoint).text)


def _hash(line: str, number: int) -> bytes:
    digest = decode_base64(line)
    if digest is None or len(digest) != HASH_BYTES:
        raise InvalidInput(f"hash {number} of the proof is not base64 of {HASH_BYTES} bytes")
    return digest
