# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what a log is at one moment, in three lines: its name, how many entries, the root over them.

C2SP checkpoint v1.0.0. There is one way to write a checkpoint, and only that is read: the text of what was parsed is,
byte for byte, the text that was signed. Signatures are the business of `note` and `cosignature`.
"""

import re

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.ledger.keys import decode_base64, encode_base64
from shieldwall.ledger.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE
from shieldwall.ledger.note import MAX_NOTE_BYTES

__all__ = ["Checkpoint", "check_origin", "parse_checkpoint", "parse_number"]

_MAX_ORIGIN_BYTES = 255
"""`subtree/v1` gives the length of the origin one byte."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x1f]")


class Checkpoint(msgspec.Struct, frozen=True):
    """A log at one size. As long as no signature was verified, a claim."""

    origin: str
    """Name of the log. Any line without control characters; ours are schemeless URLs (`check_origin`)."""
    size: int
    root: bytes
    """RFC 6962 tree hash, SHA-256."""
    extensions: tuple[str, ...] = ()
    """Further lines. No monitor can check them and ML-DSA cosignatures do not cover them: they mean nothing to us."""

    @property
    def text(self) -> bytes:
        """The text of the note, its last LF included: what is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()

    def __post_init__(self) -> None:
        """Raise InvalidInput where it could not be written so that it reads back the same."""
        for line in (self.origin, *self.extensions):
            if not line:
                raise InvalidInput("a checkpoint has an empty line")
            if _CONTROL.search(line) is not None:
                raise InvalidInput("a checkpoint has a control character")
            try:
                line.encode()
            except UnicodeEncodeError:
                raise InvalidInput("a line of a checkpoint is not text") from None
        if not 0 <= self.size <= MAX_SIZE:
            raise InvalidInput("the size of a checkpoint is not in 0 to 2^63 - 1")
        if len(self.root) != HASH_BYTES:
            raise InvalidInput(f"the root of a checkpoint has not {HASH_BYTES} bytes")


def parse_checkpoint(text: bytes, *, any_empty_root: bool = False) -> Checkpoint:
    """Read the text of a note as a checkpoint.

    Args:
        text: `Note.text`.
        any_empty_root: Take a checkpoint of size 0 whatever its root: a witness has to answer for it with a status of
            its own, after it has looked at the signatures.

    Raises:
        InvalidInput: It is no checkpoint, or written in another way than the one; LimitExceeded where it is too long.
    """
    if len(text) > MAX_NOTE_BYTES:
        raise LimitExceeded(f"the checkpoint is over {MAX_NOTE_BYTES} bytes")
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the checkpoint is not UTF-8 at byte {error.start}") from None
    if len(lines) < 4 or lines.pop():
        raise InvalidInput("a checkpoint has not at least three whole lines: origin, size, root")
    origin, size, root, *extensions = lines
    digest = decode_base64(root)
    if digest is None or len(digest) != HASH_BYTES:
        raise InvalidInput(f"line 3 of the checkpoint is not base64 of {HASH_BYTES} bytes, the root")
    checkpoint = Checkpoint(origin, parse_number(size, "line 2 of the checkpoint"), digest, tuple(extensions))
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT and not any_empty_root:
        raise InvalidInput("the checkpoint of an empty log has not the root of an empty log")
    return checkpoint


def parse_number(text: str, what: str) -> int:
    """Read a decimal without leading zeros, 0 to 2^63 - 1. `what` says in the InvalidInput where it stands."""
    # Checked before `int` is called: it would take other digits, signs and spaces, and any length.
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_SIZE:
        raise InvalidInput(f"{what} is not a decimal number from 0 to 2^63 - 1 without leading zeros")
    return int(text)


def check_origin(origin: str) -> str:
    """Give the origin back if a log of ours may have it: a schemeless URL such as `example.org/log`.

    Raises:
        ConfigError: It is none. The message says why; others' logs are free to be named otherwise.
    """
    reason = ""
    if not origin or not origin.isprintable():
        reason = "is empty or not printable"
    elif len(origin.encode()) > _MAX_ORIGIN_BYTES:
        reason = f"is over {_MAX_ORIGIN_BYTES} bytes"
    elif "+" in origin or any(each.isspace() for each in origin):
        reason = "has a space or a plus"
    elif "://" in origin or origin.startswith("/"):
        reason = "starts with a scheme or a slash"
    elif origin.endswith("/"):
        reason = "ends with a slash"
    if reason:
        raise ConfigError(f"the origin of the log {reason}", hint="name it like example.org/log")
    return origin
