# SPDX-License-Identifier: Apache-2.0
"""A log with everything it rests on in one directory, and a second, naive way to compute what it must hold."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.cosignature import cosign, open_checkpoint
from shieldwall.ledger.journal import Journal, Settings
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.log import Log
from shieldwall.ledger.merkle import PlainHasher
from shieldwall.ledger.note import parse_note, write_signatures
from shieldwall.ledger.register import create_register
from shieldwall.ledger.storage import PosixStorage

ORIGIN = "example.org/log"
SMALL = Settings(segment_bytes=65_536)
TIME = 1_790_000_000


def keys(origin: str = ORIGIN, seed: int = 1) -> list[SigningKey]:
    """Ed25519 and ML-DSA-44 keys of a log."""
    return [
        SigningKey(origin, KeyType.NOTE, bytes([seed]) * 32),
        SigningKey(origin, KeyType.SUBTREE, bytes([seed]) * 32),
    ]


KEYS = keys()
WITNESS = SigningKey("w.example", KeyType.COSIGNATURE, b"w" * 32)


def entry(number: int, life: str = "") -> bytes:
    """An entry of some length."""
    return f"{life}{number} ".encode().ljust(12 + number * 37 % 300, b".")


class House:
    """Journal, tiles and register below one directory, open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "journal", settings=SMALL)
        self.tiles = PosixStorage(path / "ledger", private=["tile/entries"])
        self.register = PosixStorage(path, staging=path / ".register.staging")

    def begin(self) -> "House":
        """Write the first register."""
        create_register(self.register, self.tiles, origin=ORIGIN, keys=[key.key for key in KEYS], time=TIME)
        return self

    def log(self, **options: Any) -> Log:
        """Open the log."""
        given: dict[str, Any] = {"origin": ORIGIN, "keys": KEYS, "clock": lambda: TIME, "hasher": PlainHasher()}
        given |= {"discard": self.tiles.discard_partials, **options}
        return Log(self.journal, self.tiles, self.register, **given)

    def append(self, count: int, life: str = "") -> None:
        """Append entries and wait until they are durable."""
        start = self.journal.size
        promises = [self.journal.append(entry(number, life), b"opening") for number in range(start, start + count)]
        for promise in promises:
            promise.result(60)

    def entries(self) -> list[bytes]:
        """Everything in the journal."""
        return [each for _, each, _ in self.journal.entries()]

    def close(self) -> None:
        """Let go of all files."""
        self.journal.close()
        self.tiles.close()
        self.register.close()


@contextmanager
def house(path: Path) -> Iterator[House]:
    """Open a house and close it again."""
    opened = House(path)
    try:
        yield opened
    finally:
        opened.close()


def copy(path: Path, to: Path) -> Path:
    """Make a backup."""
    shutil.copytree(path, to, ignore=shutil.ignore_patterns("lock"))
    return to


def naive_root(entries: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(entries) < 2:
        return hashlib.sha256(b"\0" + entries[0] if entries else b"").digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(b"\1" + naive_root(entries[:split]) + naive_root(entries[split:])).digest()


def naive_tiles(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Tiles and bundles of a log of up to 999 * 256 entries, by path, each from its entries alone."""
    found: dict[str, bytes] = {}
    rows = {"entries": [len(each).to_bytes(2, "big") + each for each in entries]}
    for level in range(3):
        span = 256**level
        rows[str(level)] = [naive_root(entries[at : at + span]) for at in range(0, len(entries) // span * span, span)]
    for kind, row in rows.items():
        for index in range(0, len(row), 256):
            part = row[index : index + 256]
            path = f"tile/{kind}/{index // 256:03}" + (f".p/{len(part)}" if len(part) < 256 else "")
            found[path] = b"".join(part)
    return found


def shown(house: House, path: str = "checkpoint") -> Checkpoint:
    """The checkpoint that is served, its signatures by both keys of the log verified."""
    data = house.tiles.read(path)
    assert data is not None
    seen = open_checkpoint(data, [key.key for key in KEYS])
    assert len(seen.signatures) == len(KEYS)
    return seen.checkpoint


def text_of(note: bytes) -> Checkpoint:
    """What a note says, nothing verified."""
    return parse_checkpoint(parse_note(note).text)


def cosigned(note: bytes, key: SigningKey = WITNESS) -> list[bytes]:
    """Signature lines of one witness."""
    return [write_signatures([cosign(parse_note(note).text, key, TIME)])]
