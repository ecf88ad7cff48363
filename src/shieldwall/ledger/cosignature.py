# SPDX-License-Identifier: Apache-2.0
"""Cosignatures: a witness states when it saw a checkpoint, and that it never saw another log of that name.

C2SP cosignature v1.1.0-rc.1. Two types. `cosignature/v1` (04, Ed25519) signs a time and the whole text of the
checkpoint, but not who cosigns: one key, one cosigner. `subtree/v1` (06, ML-DSA-44) signs name, time, origin, size and
root, and no extension lines; a log signs with it too, against who has a quantum computer one day.

Knows no clock: who signs gives the time, who verifies is told it. What a quorum is, `trust` says.
"""

import struct
from collections.abc import Iterable, Sequence

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey, VKey, check_keys, check_raw
from shieldwall.ledger.merkle import HASH_BYTES, MAX_SIZE
from shieldwall.ledger.note import Signature, Verified, parse_note, sign_note, verify_note, verify_text, write_note

__all__ = [
    "MAX_TIME",
    "SeenCheckpoint",
    "check_signature",
    "cosign",
    "cosigned_text",
    "open_checkpoint",
    "sign_checkpoint",
    "sign_subtree",
    "subtree_message",
    "verify_subtree",
]

MAX_TIME = (1 << 63) - 1
"""Latest time a cosignature may state, seconds since the Unix epoch."""

_LABEL = b"subtree/v1\n\0"
_TIME = struct.Struct(">Q")
_RANGE = struct.Struct(">QQ")
_SIGNATURE_BYTES = {KeyType.COSIGNATURE: 64, KeyType.SUBTREE: 2420}


class SeenCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint and who signed it, all of it verified."""

    checkpoint: Checkpoint
    signatures: tuple[Verified, ...]
    """Those of known keys, at least one. Whether they are enough is for `trust` to say."""


def cosigned_text(time: int, text: bytes) -> bytes:
    """What a cosignature of type 04 signs: a header, the time in seconds, the text of the checkpoint."""
    return b"cosignature/v1\ntime %d\n" % time + text


def subtree_message(cosigner: str, time: int, origin: str, start: int, end: int, root: bytes) -> bytes:
    """What a cosignature of type 06 signs.

    Args:
        cosigner: Name of its key, 1 to 255 bytes.
        time: Seconds since the Unix epoch; 0 states nothing about time, and has to be 0 where `start` is not.
        origin: The log's, 1 to 255 bytes.
        start: First entry of the subtree; 0 for a checkpoint.
        end: After its last entry; the size for a checkpoint.
        root: Hash over the subtree, 32 bytes.

    Raises:
        InvalidInput: An argument does not fit the structure.
    """
    _check_time(time)
    if not 0 <= start <= end <= MAX_SIZE or (start and start == end):
        raise InvalidInput("the bounds of a subtree are not in order, or over 2^63 - 1")
    if start and time:
        raise InvalidInput("the cosignature of a subtree that starts after entry 0 states no time")
    if len(root) != HASH_BYTES:
        raise InvalidInput(f"the hash of a subtree has not {HASH_BYTES} bytes")
    parts = (_LABEL, _short(cosigner), _TIME.pack(time), _short(origin), _RANGE.pack(start, end), root)
    return b"".join(parts)


def cosign(text: bytes, key: SigningKey, time: int) -> Signature:
    """Cosign a checkpoint, which the caller has verified to be consistent with all it cosigned before.

    Args:
        text: Text of the note.
        key: Of type 04 or 06.
        time: Seconds since the Unix epoch, not 0: a witness states a time.

    Raises:
        InvalidInput: The text is no checkpoint, or the time does not fit. ConfigError: the key is of another type.
    """
    checkpoint = parse_checkpoint(text)
    _check_time(time)
    if time == 0:
        raise InvalidInput("the time of a cosignature is not 0")
    return Signature(key.key.name, key.key.id, _TIME.pack(time) + key.sign(_message(key.key, text, checkpoint, time)))


def sign_checkpoint(checkpoint: Checkpoint, keys: Sequence[SigningKey], time: int) -> bytes:
    """Sign a checkpoint as its log: the note, one line per key.

    Args:
        checkpoint: Consistent with every one this log signed before; the caller's register sees to that.
        keys: Named like the origin, type 01 for whom the public witnesses know, 06 beside it.
        time: Seconds since the Unix epoch, for type 06.

    Raises:
        ConfigError: No key, a key of another name or of a witness's type, or one key twice (`note.check_keys`).
    """
    check_keys(key.key for key in keys)
    text = checkpoint.text
    lines = []
    for key in keys:
        if key.key.name != checkpoint.origin:
            raise ConfigError("the key of a log is not named like its origin")
        if key.key.type is KeyType.COSIGNATURE:
            raise ConfigError("a log signs with keys of type 01 and 06; type 04 is a witness's")
        lines.append(sign_note(text, key) if key.key.type is KeyType.NOTE else cosign(text, key, time))
    if not lines:
        raise ConfigError("a log without a key signs nothing")
    return write_note(text, lines)


def check_signature(key: VKey, text: bytes, signature: bytes) -> int | None:
    """Verify a signature of any supported type over the text of a checkpoint (a `note.Check`).

    Returns:
        The time it states, seconds since the Unix epoch; 0 where a cosigner states none; None for type 01.

    Raises:
        NotVerified: It does not hold. InvalidInput: the text is no checkpoint.
    """
    if key.type is KeyType.NOTE:
        verify_text(key, text, signature)
        return None
    checkpoint = parse_checkpoint(text, any_empty_root=True)
    time, bare = _split(key, signature)
    try:
        message = _message(key, text, checkpoint, time)
    except InvalidInput as error:
        # Nobody can have signed it: the name or the origin is too long for the structure.
        raise NotVerified(f"a cosignature cannot hold: {error}") from None
    check_raw(key, message, bare)
    return time


def open_checkpoint(data: bytes, keys: Iterable[VKey]) -> SeenCheckpoint:
    """Read a signed checkpoint and verify every signature of a known key, whatever its type.

    Raises:
        InvalidInput: It is no note, or its text no checkpoint.
        NotVerified: No known key signed, or the signature of one that did fails.
        ConfigError: The keys cannot be trusted together, see `note.check_keys`.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    return SeenCheckpoint(checkpoint, verify_note(note, keys, check_signature))


def sign_subtree(key: SigningKey, *, origin: str, start: int, end: int, root: bytes, time: int = 0) -> Signature:
    """Cosign a subtree with a key of type 06; see `subtree_message`.

    Raises:
        InvalidInput: An argument does not fit. ConfigError: the key is of another type.
    """
    if key.key.type is not KeyType.SUBTREE:
        raise ConfigError("only keys of type 06 sign subtrees")
    message = subtree_message(key.key.name, time, origin, start, end, root)
    return Signature(key.key.name, key.key.id, _TIME.pack(time) + key.sign(message))


def verify_subtree(key: VKey, signature: bytes, *, origin: str, start: int, end: int, root: bytes) -> int:
    """Verify the cosignature of a subtree and give its time, 0 where it states none. Raises NotVerified."""
    if key.type is not KeyType.SUBTREE:
        raise NotVerified("only keys of type 06 sign subtrees")
    time, bare = _split(key, signature)
    try:
        message = subtree_message(key.name, time, origin, start, end, root)
    except InvalidInput as error:
        raise NotVerified(f"the cosignature of a subtree cannot hold: {error}") from None
    check_raw(key, message, bare)
    return time


def _message(key: VKey, text: bytes, checkpoint: Checkpoint, time: int) -> bytes:
    """What a key of type 04 or 06 signs for a checkpoint."""
    if key.type is KeyType.COSIGNATURE:
        return cosigned_text(time, text)
    if key.type is KeyType.SUBTREE:
        return subtree_message(key.name, time, checkpoint.origin, 0, checkpoint.size, checkpoint.root)
    raise ConfigError("a key of type 01 does not cosign", hint="cosign with a key of type 04 or 06")


def _split(key: VKey, signature: bytes) -> tuple[int, bytes]:
    """Time and bare signature."""
    if len(signature) != _TIME.size + _SIGNATURE_BYTES[key.type]:
        raise NotVerified(f"a cosignature of type {key.type:02x} has another length")
    (time,) = _TIME.unpack_from(signature)
    if time > MAX_TIME:
        raise NotVerified("a cosignature states a time past 2^63 - 1")
    return time, signature[_TIME.size :]


def _check_time(time: int) -> None:
    if not 0 <= time <= MAX_TIME:
        raise InvalidInput("the time of a cosignature is not in 0 to 2^63 - 1")


def _short(text: str) -> bytes:
    """Write a name with its length in one byte."""
    data = text.encode()
    if not 1 <= len(data) <= 255:
        raise InvalidInput("the name of a cosigner or of a log has not 1 to 255 bytes")
    return bytes([len(data)]) + data
