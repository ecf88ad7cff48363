# SPDX-License-Identifier: Apache-2.0
"""Keys, register and tiles of a log in a data directory: begun once, opened with the keys the register names."""

from pathlib import Path

import pytest

from shieldwall.core.errors import ConfigError
from shieldwall.ledger.home import begin_log, opened_log, read_vkeys
from shieldwall.ledger.journal import Journal, Settings
from shieldwall.ledger.keys import KeyType, SigningKey, VKey, write_key_file
from shieldwall.ledger.log import Log
from shieldwall.ledger.merkle import PlainHasher
from shieldwall.ledger.register import LogRefused, read_register
from shieldwall.ledger.rotation import seal_rotation
from shieldwall.ledger.storage import PosixStorage
from tests.ledger.log_support import TIME, text_of

ORIGIN = "example.org/log"


def begin(data: Path) -> tuple[VKey, ...]:
    """A log without entries."""
    data.mkdir(exist_ok=True)
    return begin_log(data, origin=ORIGIN, time=TIME)


def publish(data: Path, *entries: bytes) -> Log:
    """Append, publish, and let go of everything."""
    journal = Journal(data / "journal", settings=Settings(segment_bytes=65_536))
    try:
        for entry in entries:
            journal.append(entry).result(60)
        with opened_log(data, journal, clock=lambda: TIME, hasher=PlainHasher()) as log:
            log.publish()
        return log
    finally:
        journal.close()


def test_what_was_begun_is_opened_with_its_keys(tmp_path: Path) -> None:
    """Both keys sign, and reading the verifier keys back needs no lock and changes nothing."""
    vkeys = begin(tmp_path / "data")

    log = publish(tmp_path / "data", b"one", b"two")

    assert [key.type for key in vkeys] == [KeyType.NOTE, KeyType.SUBTREE]
    assert read_vkeys(tmp_path / "data") == vkeys
    assert log.checkpoint is not None
    assert (text_of(log.checkpoint).origin, text_of(log.checkpoint).size) == (ORIGIN, 2)


def test_beginning_signs_nothing(tmp_path: Path) -> None:
    """The register has an empty tree, and there is no checkpoint before the first publication."""
    data = tmp_path / "data"
    begin(data)

    storage = PosixStorage(data, read_only=True)
    register, _ = read_register(storage)
    storage.close()
    assert (register.shard.origin, register.shard.size, register.time) == (ORIGIN, 0, TIME)
    assert list((data / "ledger").iterdir()) == []


def test_a_log_is_begun_once(tmp_path: Path) -> None:
    """Neither over another one nor over the keys of one whose register is gone."""
    data = tmp_path / "data"
    vkeys = begin(data)

    with pytest.raises(LogRefused, match="a log is there already"):
        begin(data)
    assert read_vkeys(data) == vkeys
    (data / "register").unlink()
    with pytest.raises(LogRefused, match="keys of a log"):
        begin(data)


def test_keys_of_a_new_shard_stand_beside_the_old_ones(tmp_path: Path) -> None:
    """Which of them sign is said by the register."""
    data = tmp_path / "data"
    begin(data)
    new = [SigningKey.generate(f"{ORIGIN}/2", kind) for kind in (KeyType.NOTE, KeyType.SUBTREE)]
    vkeys = tuple(key.key for key in new)
    for key in new:
        write_key_file(data / "keys" / "ledger" / f"{key.key.id:08x}.key", key)
    journal = Journal(data / "journal", settings=Settings(segment_bytes=65_536))

    with opened_log(data, journal, clock=lambda: TIME, hasher=PlainHasher()) as log:
        entry = seal_rotation(
            old=ORIGIN, new=f"{ORIGIN}/2", keys=vkeys, time=TIME * 1_000_000, node="n", secret=bytes(32)
        )
        log.rotate(f"{ORIGIN}/2", new, entry)
    journal.close()

    assert read_vkeys(data) == vkeys
    checkpoint = publish(data, b"under the new keys").checkpoint
    assert checkpoint is not None
    assert (text_of(checkpoint).origin, text_of(checkpoint).size) == (f"{ORIGIN}/2", 2)


def test_a_key_that_is_not_the_one_named_is_refused(tmp_path: Path) -> None:
    """Another key under its file name, or none."""
    data = tmp_path / "data"
    first, _ = begin(data)
    path = data / "keys" / "ledger" / f"{first.id:08x}.key"
    path.unlink()

    with pytest.raises(ConfigError, match="cannot be read"):
        read_vkeys(data)
    write_key_file(path, SigningKey.generate(ORIGIN, KeyType.NOTE))
    with pytest.raises(ConfigError, match="holds another key than its name says"):
        publish(data)


def test_where_there_is_no_log_none_is_opened(tmp_path: Path) -> None:
    """And nothing is made there."""
    with pytest.raises(ConfigError, match="there is no data directory"):
        read_vkeys(tmp_path / "nowhere")
    with pytest.raises(LogRefused, match="has no register"):
        read_vkeys(tmp_path)
    assert list(tmp_path.iterdir()) == []
