# SPDX-License-Identifier: Apache-2.0
"""Bytes as the text of a checkpoint: an error of ours, or the one text of what was read."""

from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.merkle import EMPTY_ROOT

__all__ = ["SEEDS", "fuzz"]


def fuzz(data: bytes) -> None:
    """Read it, strictly and as a witness does; what both read is the same."""
    with suppress(InvalidInput):
        checkpoint = parse_checkpoint(data, any_empty_root=True)
        assert checkpoint.text == data
        assert checkpoint.size or checkpoint.root == EMPTY_ROOT or _refused(data)
    with suppress(InvalidInput):
        assert parse_checkpoint(data) == parse_checkpoint(data, any_empty_root=True)


def _refused(data: bytes) -> bool:
    try:
        parse_checkpoint(data)
    except InvalidInput:
        return True
    return False


SEEDS: list[bytes] = [
    Checkpoint("example.org/log", 0, EMPTY_ROOT).text,
    Checkpoint("example.org/log", 0, bytes(32)).text,
    Checkpoint("go.sum database tree", 35225469, bytes(range(32))).text,
    Checkpoint("é", (1 << 63) - 1, b"\xff" * 32, ("one", "— two 3")).text,
]
"""Empty logs with the right root and a wrong one, an origin with spaces, the greatest size with extension lines."""
