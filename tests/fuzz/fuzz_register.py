# SPDX-License-Identifier: Apache-2.0
"""Bytes as the register of a log: an error of ours, or the one writing of what was read."""

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.merkle import EMPTY_ROOT
from shieldwall.ledger.register import Register, Shard, parse_register

__all__ = ["SEEDS", "fuzz"]


def fuzz(data: bytes) -> None:
    """Read it and write it."""
    try:
        register = parse_register(data)
    except InvalidInput:
        return
    assert register.data == data
    assert all(each.size <= register.shard.size for each in register.closed)


_EMPTY = Shard("example.org/log", 0, EMPTY_ROOT, ("0123abcd",))

SEEDS: list[bytes] = [
    Register(_EMPTY, 0).data,
    Register(Shard("example.org/log/2", 9, bytes(32), ("00000001", "ffffffff")), 1_790_000_000, (_EMPTY,)).data,
    b"null",
]
"""An empty log, one that was rotated, and JSON that is no register."""
