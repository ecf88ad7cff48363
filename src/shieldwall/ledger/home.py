# SPDX-License-Identifier: Apache-2.0
"""Where a log lives in a data directory: keys in DATA/keys/ledger, DATA/register, tiles in DATA/ledger.

Each key lies in a file named like its id, so that the register, which names the ids, says which of them sign: a
rotation adds files and takes none away. A log is begun once. Keys without a register are not begun with again, because
nobody knows what they have signed.

Whoever begins or opens a log owns the data directory and holds its lock; to read the verifier keys nobody has to.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shieldwall.core.errors import ConfigError
from shieldwall.ledger.checkpoint import check_origin
from shieldwall.ledger.journal import Journal
from shieldwall.ledger.keys import KeyType, SigningKey, VKey, read_key_file, write_key_file
from shieldwall.ledger.log import Log, Witness
from shieldwall.ledger.merkle import Hasher
from shieldwall.ledger.register import REGISTER, LogRefused, Register, create_register, read_register
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.trust import Policy

__all__ = ["begin_log", "opened_log", "read_vkeys"]

_KEYS: Final = Path("keys", "ledger")
_TYPES: Final = (KeyType.NOTE, KeyType.SUBTREE)


def begin_log(data: Path, *, origin: str, time: int) -> tuple[VKey, ...]:
    """Make the keys and the register of a new log, durable on return; nothing is signed yet.

    Args:
        data: The data directory; it exists, and the caller holds its lock.
        origin: Name of the log, never used before: witnesses remember it.
        time: Seconds since the Unix epoch.

    Returns:
        The verifier keys, Ed25519 first.

    Raises:
        LogRefused: A log is there already, or something that is left of one.
        ConfigError: The origin is none of a log, or the disk refuses. JournalError: the disk refuses.
    """
    check_origin(origin)
    keys = [SigningKey.generate(origin, kind) for kind in _TYPES]
    vkeys = tuple(key.key for key in keys)
    folder = data / _KEYS
    with _storages(data) as (tiles, register):
        if register.read(REGISTER) is not None:
            raise LogRefused("a log is there already: DATA/register exists", hint="leave it as it is")
        _write_keys(folder, keys)
        try:
            create_register(register, tiles, origin=origin, keys=vkeys, time=time)
        except LogRefused:
            # They were made a moment ago, have signed nothing and are in no register.
            shutil.rmtree(folder)
            raise
    return vkeys


def read_vkeys(data: Path) -> tuple[VKey, ...]:
    """Give the verifier keys of the log in a data directory, Ed25519 first; its owner may be at work.

    Raises:
        LogRefused: No log was begun there. ConfigError: there is no such directory, or a key is not as it was left.
    """
    register = _read_register(data)
    return tuple(key.key for key in _read_keys(data, register))


@contextmanager
def opened_log(
    data: Path,
    journal: Journal,
    *,
    clock: Callable[[], float] = time.time,
    hasher: Hasher | None = None,
    witness: Witness | None = None,
    policy: Policy | None = None,
    seen: Callable[[], int | None] | None = None,
) -> Iterator[Log]:
    """Open the log of a data directory over its journal. Use as a context; the caller holds the lock.

    Args:
        data: The data directory.
        journal: Its journal.
        clock: Seconds since the Unix epoch.
        hasher: Who hashes the tree; by default the fastest on this machine.
        witness: See `Log`, as the next two.
        policy: What has to hold of a checkpoint to count as witnessed.
        seen: Greatest size of this log that anyone outside has seen.

    Raises:
        LogRefused: No log was begun there, or its parts do not belong together.
        ConfigError: There is no such directory, or a key is not as it was left.
    """
    register = _read_register(data)
    keys = _read_keys(data, register)
    with _storages(data) as (tiles, registered):
        yield Log(
            journal,
            tiles,
            registered,
            origin=register.shard.origin,
            keys=keys,
            clock=clock,
            hasher=hasher,
            discard=tiles.discard_partials,
            witness=witness,
            policy=policy,
            seen=seen,
        )


@contextmanager
def _storages(data: Path) -> Iterator[tuple[PosixStorage, PosixStorage]]:
    """Of the tiles and of the register."""
    tiles = PosixStorage(data / "ledger", private=["tile/entries"])
    try:
        register = PosixStorage(data, staging=data / ".register.staging")
        try:
            yield tiles, register
        finally:
            register.close()
    finally:
        tiles.close()


def _read_register(data: Path) -> Register:
    if not data.is_dir():
        raise ConfigError(f"there is no data directory {data}", hint="name the one of the log with --data")
    storage = PosixStorage(data, read_only=True)
    try:
        return read_register(storage)[0]
    finally:
        storage.close()


def _read_keys(data: Path, register: Register) -> tuple[SigningKey, ...]:
    """Read those the register names."""
    keys = []
    for each in register.shard.keys:
        path = data / _KEYS / f"{each}.key"
        key = read_key_file(path)
        if (f"{key.key.id:08x}", key.key.name) != (each, register.shard.origin):
            raise ConfigError(f"{path} holds another key than its name says", hint="put back the keys of this log")
        keys.append(key)
    return tuple(sorted(keys, key=lambda key: key.key.type))


def _write_keys(folder: Path, keys: list[SigningKey]) -> None:
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise LogRefused(
            "there are keys of a log in DATA/keys/ledger, but there is no register to go with them",
            hint="restore DATA/register from where the log ran last; only if `init` was interrupted and nothing was "
            "ever signed, remove DATA/keys/ledger and begin again",
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    for key in keys:
        write_key_file(folder / f"{key.key.id:08x}.key", key)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
