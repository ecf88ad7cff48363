# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they lie beside the tiles, and what has to hold of them before anything is built on them.

There are two: `checkpoint`, the newest that was signed, and `checkpoint.witnessed`, the newest that a quorum has
cosigned. Mostly they are one; under load the log may have gone on before the witnesses answered, and a checkpoint that
was shown is never replaced by a smaller one.
"""

from collections.abc import Iterable, Sequence

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.checkpoint import parse_checkpoint
from shieldwall.ledger.cosignature import open_checkpoint
from shieldwall.ledger.keys import VKey
from shieldwall.ledger.merkle import tree_root
from shieldwall.ledger.note import parse_note, parse_signatures, write_note
from shieldwall.ledger.register import LogRefused, Register
from shieldwall.ledger.storage import Storage
from shieldwall.ledger.tiles import TileReader
from shieldwall.ledger.trust import Policy, verify_checkpoint

__all__ = ["WITNESSED", "Published", "load_published", "merged"]

WITNESSED = "checkpoint.witnessed"
"""Path of the newest checkpoint that a quorum has cosigned."""


class Published(msgspec.Struct, frozen=True):
    """A checkpoint of the current shard that anyone may have seen."""

    size: int
    root: bytes
    note: bytes
    """With all its signatures."""


def load_published(
    tiles: Storage, path: str, register: Register, keys: Iterable[VKey], reader: TileReader
) -> tuple[Published | None, bytes | None]:
    """Read a checkpoint back: what it says, None where it is of a closed shard, and its bytes, None where none is.

    Raises:
        LogRefused: It is not one that this register led to.
        JournalCorrupt: A tile is missing.
    """
    data = tiles.read(path)
    if data is None:
        return None, None
    shard = register.shard
    where = f"DATA/ledger/{path}"
    try:
        found = parse_checkpoint(parse_note(data).text)
        if found.origin == shard.origin:
            open_checkpoint(data, keys)
    except InvalidInput as error:
        raise LogRefused(
            f"{where} is not as this log left it: {error}",
            hint="find out who changed it; moved away, it is signed again from the register",
        ) from None
    last = next((each for each in (shard, *register.closed) if each.origin == found.origin), None)
    if last is None:
        raise LogRefused(
            f"{where} is of another log, {found.origin}", hint="register and tiles are not of one node: restore both"
        )
    if found.size > last.size:
        raise LogRefused(
            f"the register is behind: it has size {last.size}, but {where} of size {found.size} was signed",
            hint="DATA/register is from an older backup: restore the newest one, or the log would be signed twice",
        )
    if tree_root(found.size, reader.at(last.size)) != found.root:
        raise LogRefused(
            f"{where} of size {found.size} is not the beginning of the log in DATA/ledger",
            hint="the log has two histories: keep both, sign nothing, compare with a mirror",
        )
    return (Published(found.size, found.root, data) if last is shard else None), data


def merged(note: bytes, lines: Sequence[bytes], keys: Iterable[VKey], policy: Policy | None) -> bytes:
    """Add cosignature lines to a signed checkpoint, each once, and hold the result against the policy.

    Raises:
        InvalidInput: A line is no signature. NotVerified: a known signature fails, or the quorum is not met.
    """
    held = parse_note(note)
    added = parse_signatures(b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines))
    found = write_note(held.text, tuple(dict.fromkeys((*held.signatures, *added))))
    logs = tuple(keys)
    if policy is None:
        open_checkpoint(found, logs)
    else:
        verify_checkpoint(policy, found, logs=logs)
    return found
