# SPDX-License-Identifier: Apache-2.0
"""The register: the last word about what this log has signed or is about to sign, replaced as one step or not at all.

`DATA/register`, apart from tiles and journal, canonical JSON. It is replaced before a signature is made, so a signature
exists only for what stands, or stood, in it: who starts after a crash signs the same again, who lost a race signs
nothing, and a tile tree from a backup that the register does not know is not signed.

A log is rotated by closing its shard: from then on the register names another origin and other keys over the same tree.
Nothing that was published moves; receipts of the closed shard carry their own checkpoint and verify as before.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shieldwall.core.codec import MAX_INTEGER, canonical, parse
from shieldwall.core.errors import ConfigError, InvalidInput, JournalError, LimitExceeded
from shieldwall.ledger.checkpoint import check_origin
from shieldwall.ledger.keys import KeyType, VKey, check_keys
from shieldwall.ledger.merkle import EMPTY_ROOT, HASH_BYTES
from shieldwall.ledger.storage import Storage
from shieldwall.ledger.tiles import ENTRIES, WIDTH, Tile

__all__ = [
    "CHECKPOINT",
    "MAX_CLOSED",
    "MAX_REGISTER_BYTES",
    "REGISTER",
    "LogRefused",
    "Register",
    "Shard",
    "check_log_keys",
    "close_shard",
    "create_register",
    "doubled",
    "key_ids",
    "next_shard",
    "parse_register",
    "read_register",
]

REGISTER = "register"
"""Its path in the storage of DATA."""

CHECKPOINT = "checkpoint"
"""Path of the newest signed checkpoint in the storage of the tiles."""

MAX_CLOSED = 256
"""Shards a log may have closed: a rotation every half year for 128 years."""

MAX_REGISTER_BYTES = 1 << 18

_MAX_KEYS = 8
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_ROOT = re.compile(r"[0-9a-f]{64}")


class LogRefused(JournalError):
    """The log does not go on, because what it finds is not what the register has. Nothing was signed over it."""


class Shard(msgspec.Struct, frozen=True):
    """A log under one name and one set of keys, as it stood last."""

    origin: str
    size: int
    root: bytes
    keys: tuple[str, ...]
    """Ids of its keys, eight hex digits each, sorted."""


class Register(msgspec.Struct, frozen=True):
    """What the log may sign: this size and root, under this name, with these keys."""

    shard: Shard
    time: int
    """When it was replaced, seconds since the Unix epoch; what an ML-DSA signature of the log states."""
    closed: tuple[Shard, ...] = ()
    """Shards before this one, oldest first. Their tree is the beginning of this tree."""

    @property
    def data(self) -> bytes:
        """Its canonical bytes."""
        members = {**_plain(self.shard), "closed": [_plain(each) for each in self.closed], "time": self.time, "v": 1}
        return canonical(members)

    def __post_init__(self) -> None:
        """Raise InvalidInput where it is no register."""
        if not 0 <= self.time <= MAX_INTEGER:
            raise InvalidInput("the time of a register is not in seconds since 1970")
        if len(self.closed) > MAX_CLOSED:
            raise LimitExceeded(f"a register has over {MAX_CLOSED} closed shards")
        for each in (*self.closed, self.shard):
            _check_shard(each)
        sizes = [each.size for each in (*self.closed, self.shard)]
        if sizes != sorted(sizes):
            raise InvalidInput("a shard of the register is smaller than the one before it")
        origins = {each.origin for each in (*self.closed, self.shard)}
        if len(origins) != 1 + len(self.closed):
            raise InvalidInput("two shards of the register have one origin")


def parse_register(data: bytes) -> Register:
    """Read a register. There is one way to write it, and only that is read.

    Raises:
        InvalidInput: It is none; LimitExceeded where it is too long.
    """
    if len(data) > MAX_REGISTER_BYTES:
        raise LimitExceeded(f"the register is over {MAX_REGISTER_BYTES} bytes")
    try:
        found = msgspec.convert(parse(data), _Written)
    except msgspec.ValidationError:
        raise InvalidInput("the register has not the members of a register") from None
    if found.v != 1:
        raise InvalidInput(f"the register is of version {found.v}, not 1", hint="it was written by a newer Shieldwall")
    closed = tuple(_shard(each) for each in found.closed)
    return Register(_shard(_WrittenShard(found.keys, found.origin, found.root, found.size)), found.time, closed)


def read_register(storage: Storage) -> tuple[Register, bytes]:
    """Give the register and its bytes.

    Raises:
        LogRefused: There is none, or it does not read.
    """
    data = storage.read(REGISTER)
    if data is None:
        raise LogRefused(
            "the log has no register (DATA/register)",
            hint="restore it from where the log ran last; only a log that never signed anything is begun with "
            "`shieldwall ledger init`",
        )
    try:
        return parse_register(data), data
    except InvalidInput as error:
        raise LogRefused(
            f"DATA/register cannot be used: {error}", hint="restore it; without it nobody knows what was signed"
        ) from None


def create_register(storage: Storage, tiles: Storage, *, origin: str, keys: Iterable[VKey], time: int) -> Register:
    """Begin a log: write the register of an empty one.

    Args:
        storage: Of the register.
        tiles: Of the tiles; has to be empty.
        origin: Name of the log, never used before: witnesses remember it.
        keys: What it will sign with.
        time: Seconds since the Unix epoch.

    Raises:
        LogRefused: There is a register or a tile already.
        ConfigError: Origin and keys are not those of a log.
    """
    register = Register(Shard(check_origin(origin), 0, EMPTY_ROOT, key_ids(check_log_keys(origin, keys))), time)
    places = [CHECKPOINT, *(Tile(level, 0, width).path for level in (0, ENTRIES) for width in range(1, WIDTH + 1))]
    for path in places:
        if tiles.read(path) is not None:
            raise LogRefused(
                f"a log is there already: DATA/ledger holds {path}, but there is no register to go with it",
                hint="restore DATA/register, or begin in an empty directory under a new origin",
            )
    if not storage.compare_and_swap(REGISTER, None, register.data):
        raise LogRefused("a log is there already: DATA/register exists", hint="leave it as it is, or rotate its keys")
    return register


def next_shard(old: Register, *, origin: str, keys: Iterable[VKey], time: int) -> Register:
    """Give the register after its shard was closed and the next one opened over the same tree.

    Args:
        old: The register.
        origin: Name of the new shard, never used before, such as the old one with another suffix.
        keys: Of the new shard, none of them used before.
        time: Seconds since the Unix epoch.

    Raises:
        ConfigError: Origin or keys were used before, or are not those of a log.
    """
    ids = key_ids(check_log_keys(check_origin(origin), keys))
    for each in (*old.closed, old.shard):
        if each.origin == origin or set(each.keys) & set(ids):
            raise ConfigError(
                f"the origin or a key was used before, by {each.origin}",
                hint="give the new shard another suffix and new keys",
            )
    if len(old.closed) >= MAX_CLOSED:
        raise ConfigError(f"a log has at most {MAX_CLOSED} closed shards", hint="begin a new log")
    shard = Shard(origin, old.shard.size, old.shard.root, ids)
    return Register(shard, max(time, old.time), (*old.closed, old.shard))


def close_shard(storage: Storage, *, origin: str, keys: Iterable[VKey], time: int) -> Register:
    """Close the current shard and open the next one: `next_shard`, made so. Whoever holds the old keys signs no more.

    `Log.rotate` calls it once the new keys are announced under the old ones. By itself it is for keys that were lost.

    Raises:
        LogRefused: Another node changed the register meanwhile, or it cannot be used. ConfigError: see `next_shard`.
    """
    old, data = read_register(storage)
    new = next_shard(old, origin=origin, keys=keys, time=time)
    if not storage.compare_and_swap(REGISTER, data, new.data):
        raise doubled()
    return new


def doubled() -> LogRefused:
    """Give the error about a register or checkpoint that somebody else has replaced."""
    return LogRefused(
        "another node signs for this log: what it last signed is not what this node left there",
        hint="stop one of the two; a copy of a data directory needs keys and an origin of its own",
    )


def key_ids(keys: Iterable[VKey]) -> tuple[str, ...]:
    """Ids of keys as the register has them."""
    return tuple(sorted(f"{key.id:08x}" for key in keys))


def check_log_keys(origin: str, keys: Iterable[VKey]) -> tuple[VKey, ...]:
    """Give back the keys if a log of this origin may sign with them: one Ed25519 key at least, and ML-DSA keys.

    Raises:
        ConfigError: It may not.
    """
    kept = check_keys(keys)
    if not 1 <= len(kept) <= _MAX_KEYS or all(key.type is not KeyType.NOTE for key in kept):
        raise ConfigError(f"a log signs with 1 to {_MAX_KEYS} keys, one of them Ed25519 (type 01)")
    for key in kept:
        if key.name != origin:
            raise ConfigError("the key of a log is not named like its origin", hint="make keys for this origin")
        if key.type is KeyType.COSIGNATURE:
            raise ConfigError("a log signs with keys of type 01 and 06; type 04 is a witness's")
    return kept


class _WrittenShard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[str]
    origin: str
    root: str
    size: int


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    closed: list[_WrittenShard]
    keys: list[str]
    origin: str
    root: str
    size: int
    time: int
    v: int


def _plain(shard: Shard) -> dict[str, Any]:
    return {"keys": shard.keys, "origin": shard.origin, "root": shard.root.hex(), "size": shard.size}


def _shard(written: _WrittenShard) -> Shard:
    if _ROOT.fullmatch(written.root) is None:
        raise InvalidInput("a root of the register is not 64 hex digits")
    return Shard(written.origin, written.size, bytes.fromhex(written.root), tuple(written.keys))


def _check_shard(shard: Shard) -> None:
    try:
        check_origin(shard.origin)
    except (ConfigError, UnicodeEncodeError):
        raise InvalidInput("an origin of the register is not one of a log") from None
    if not 0 <= shard.size <= MAX_INTEGER or len(shard.root) != HASH_BYTES:
        raise InvalidInput("a size or a root of the register is out of range")
    if not shard.size and shard.root != EMPTY_ROOT:
        raise InvalidInput("the register of an empty log has not the root of an empty log")
    if not 1 <= len(shard.keys) <= _MAX_KEYS or list(shard.keys) != _sorted_ids(shard.keys):
        raise InvalidInput("the key ids of the register are not sorted ids of 1 to 8 keys")


def _sorted_ids(ids: Sequence[str]) -> list[str]:
    return sorted(each for each in set(ids) if _KEY_ID.fullmatch(each) is not None)
