# SPDX-License-Identifier: Apache-2.0
"""Signed notes: a text, a blank line, and who signed it.

C2SP signed-note v1.0.0. A signature line names its key by name and id. Lines of keys that are not known are passed
over, which is how keys rotate and witnesses join; a line of a known key that does not hold refuses the whole note.

Only type 01 is signed and verified here: `cosignature` has the other two, and `check_signature` for all three.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.ledger.keys import (
    KeyType,
    NotVerified,
    SigningKey,
    VKey,
    check_keys,
    check_name,
    check_raw,
    decode_base64,
    encode_base64,
    is_name,
)

__all__ = [
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Check",
    "Note",
    "Signature",
    "Verified",
    "parse_note",
    "parse_signatures",
    "sign_note",
    "verify_note",
    "verify_text",
    "write_note",
    "write_signatures",
]

MAX_NOTE_BYTES = 1_000_000
"""Longest note, the bound of Go's note package: a hundred lines of ML-DSA-44 take a third of it."""

MAX_SIGNATURES = 100
"""Most signature lines, likewise. The format asks for at least 16."""

_MARK = "\N{EM DASH} ".encode()
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


class Signature(msgspec.Struct, frozen=True):
    """A signature line, not verified."""

    name: str
    id: int
    data: bytes
    """What follows the four bytes of the id."""


class Note(msgspec.Struct, frozen=True):
    """A note, not verified."""

    text: bytes
    """UTF-8, its last LF included; what type 01 signs."""
    signatures: tuple[Signature, ...]


class Verified(msgspec.Struct, frozen=True):
    """A signature that holds."""

    key: VKey
    time: int | None
    """Seconds since the Unix epoch that a cosignature states; None for type 01, which states none."""


def parse_note(data: bytes) -> Note:
    """Read a note. Nothing is verified.

    Base64 of a signature may have stray bits after its end, as other implementations let it: what counts is whether
    the signature holds.

    Raises:
        InvalidInput: It is no note; LimitExceeded where it is longer than 1,000,000 bytes or has over 100 signatures.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise LimitExceeded(f"the note is over {MAX_NOTE_BYTES} bytes")
    # The last blank line: the text may have more of them, and then a signature line cannot hide in it.
    end = data.rfind(b"\n\n")
    if end < 0:
        raise InvalidInput("the note has no blank line between text and signatures")
    text = data[: end + 1]
    _check_text(text)
    return Note(text, parse_signatures(data[end + 2 :]))


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Read signature lines as they end a note, or as a witness answers with them. Nothing is verified.

    Raises:
        InvalidInput: A line is none, or there is none; LimitExceeded where there are over 100.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise LimitExceeded(f"the signatures are over {MAX_NOTE_BYTES} bytes")
    if not data.endswith(b"\n"):
        raise InvalidInput("the signatures of a note do not end with a line end")
    if data.count(b"\n") > MAX_SIGNATURES:
        raise LimitExceeded(f"the note has over {MAX_SIGNATURES} signatures")
    return tuple(_parse_line(line, number) for number, line in enumerate(data[:-1].split(b"\n"), 1))


def write_note(text: bytes, signatures: Sequence[Signature]) -> bytes:
    """Join a text and its signatures. Raises InvalidInput where `parse_note` would not take the result."""
    _check_text(text)
    data = text + b"\n" + write_signatures(signatures)
    if len(data) > MAX_NOTE_BYTES:
        raise LimitExceeded(f"the note is over {MAX_NOTE_BYTES} bytes")
    return data


def write_signatures(signatures: Sequence[Signature]) -> bytes:
    """Write signature lines. Raises InvalidInput where there are none or `parse_signatures` would not take them."""
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise InvalidInput(f"a note has 1 to {MAX_SIGNATURES} signatures")
    lines = []
    for each in signatures:
        check_name(each.name)
        if not each.data or not 0 <= each.id < 1 << 32:
            raise InvalidInput("a signature is empty, or its id has not four bytes")
        blob = each.id.to_bytes(4, "big") + each.data
        lines.append(_MARK + f"{each.name} {encode_base64(blob)}\n".encode())
    return b"".join(lines)


def sign_note(text: bytes, key: SigningKey) -> Signature:
    """Sign a text with a key of type 01.

    Raises:
        InvalidInput: It is not the text of a note. ConfigError: the key is of another type.
    """
    if key.key.type is not KeyType.NOTE:
        raise ConfigError(f"a key of type {key.key.type:02x} does not sign notes", hint="sign with a key of type 01")
    _check_text(text)
    return Signature(key.key.name, key.key.id, key.sign(text))


Check = Callable[[VKey, bytes, bytes], int | None]
"""Verifies one signature: key, text, data of the signature line. Gives its time; raises NotVerified."""


def verify_text(key: VKey, text: bytes, signature: bytes) -> None:
    """Verify a signature of type 01 (a `Check`). Raises NotVerified, also for a key of another type."""
    if key.type is not KeyType.NOTE:
        raise NotVerified(f"a key of type {key.type:02x} does not sign notes")
    check_raw(key, text, signature)


def verify_note(note: Note, keys: Iterable[VKey], check: Check = verify_text) -> tuple[Verified, ...]:
    """Verify every signature of a known key.

    Args:
        note: The note.
        keys: Who is trusted; `check_keys` must hold for them.
        check: How a signature is verified: type 01 alone, or `cosignature.check_signature`.

    Returns:
        The signatures that hold, in the order of the lines, at least one. One key may have signed more than once.

    Raises:
        NotVerified: No known key signed, or the signature of one that did fails. ConfigError: see `check_keys`.
    """
    known = {(key.name, key.id): key for key in check_keys(keys)}
    found = []
    for each in note.signatures:
        key = known.get((each.name, each.id))
        if key is not None:
            found.append(Verified(key, check(key, note.text, each.data)))
    if not found:
        raise NotVerified("no known key signed the note", hint="compare the verifier key with the log's own")
    return tuple(found)


def _parse_line(line: bytes, number: int) -> Signature:
    """Read one signature line; its number is for people."""
    where = f"signature line {number} of the note"
    if not line.startswith(_MARK):
        raise InvalidInput(f"{where} does not start with an em dash and a space")
    name, space, blob = _utf8(line[len(_MARK) :], where).partition(" ")
    if not space:
        raise InvalidInput(f"{where} has no signature")
    if not is_name(name):
        raise InvalidInput(f"{where} names no key")
    data = decode_base64(blob, strict=False)
    if data is None or len(data) < 5:
        raise InvalidInput(f"{where} is not base64 of an id and a signature")
    return Signature(name, int.from_bytes(data[:4], "big"), data[4:])


def _check_text(text: bytes) -> None:
    """Raise InvalidInput unless a note can have this text."""
    if not text.endswith(b"\n"):
        raise InvalidInput("the text of a note does not end with a line end")
    if (found := _CONTROL.search(text)) is not None:
        raise InvalidInput(f"the text of a note has a control character at byte {found.start()}")
    _utf8(text, "the text of a note")


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} is not UTF-8 at byte {error.start}") from None
