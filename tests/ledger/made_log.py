# SPDX-License-Identifier: Apache-2.0
"""Logs for the tests, made the slow and plain way: tiles straight from the definition, none of the writer's code."""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shieldwall.core.entry import EntryType, seal_entry
from shieldwall.core.errors import JournalError
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.cosignature import cosign, sign_checkpoint
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.merkle import prove_consistency
from shieldwall.ledger.note import parse_note, write_note
from shieldwall.ledger.trust import Policy, parse_policy

ORIGIN = "example.org/log"
NOW = 1_750_000_000
"""Seconds since the Unix epoch, a time in these logs."""


def make_key(name: str, kind: KeyType = KeyType.NOTE, salt: str = "") -> SigningKey:
    """A key that is the same in every run."""
    return SigningKey(name, kind, hashlib.sha256(f"{name} {kind} {salt}".encode()).digest())


LOG = make_key(ORIGIN)
THIEF = make_key(ORIGIN, salt="another key of the same name")
WITNESSES = tuple(make_key(f"w{number}.example", KeyType.COSIGNATURE) for number in range(5))


def make_policy(quorum: int, *, log: SigningKey = LOG, urls: Sequence[str] = ()) -> Policy:
    """The log and five witnesses, of which so many are needed."""
    urls = [*urls, *[""] * (len(WITNESSES) - len(urls))]
    lines = [f"log {log.key}"]
    lines += [f"witness w{at} {key.key} {url}" for at, (key, url) in enumerate(zip(WITNESSES, urls, strict=True))]
    if quorum:
        lines += [f"group some {quorum} w0 w1 w2 w3 w4", "quorum some"]
    else:
        lines.append("quorum none")
    return parse_policy("".join(f"{line}\n" for line in lines).encode())


def leaf(entry: bytes) -> bytes:
    """RFC 6962 leaf hash."""
    return hashlib.sha256(b"\0" + entry).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 tree hash, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def path_of(kind: str, index: int, width: int) -> str:
    """The path of a tile."""
    groups = [f"{index // 1000**power % 1000:03}" for power in range(3) if power == 0 or index >= 1000**power]
    name = "/".join([*(f"x{group}" for group in reversed(groups[1:])), groups[0]])
    return f"tile/{kind}/{name}" + ("" if width == 256 else f".p/{width}")


def files_of(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Every tile and bundle of a log that was published once, at this size."""
    files = {}
    for start in range(0, len(entries), 256):
        part = entries[start : start + 256]
        bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in part)
        files[path_of("entries", start // 256, len(part))] = bundle
    row, level = [leaf(entry) for entry in entries], 0
    while row:
        parts = [row[start : start + 256] for start in range(0, len(row), 256)]
        for index, part in enumerate(parts):
            files[path_of(str(level), index, len(part))] = b"".join(part)
        row, level = [root_of(part) for part in parts if len(part) == 256], level + 1
    return files


def entry_at(time_s: float, event: str = "e", kind: EntryType = EntryType.DECISION_REQUEST) -> bytes:
    """An entry of format v1."""
    entry, _ = seal_entry(
        type=kind,
        time=round(time_s * 1_000_000),
        node="n1",
        event=event,
        subject="",
        policy="",
        model="m",
        action="allow",
        score=0,
        findings=[],
        fields={},
        secret=hashlib.sha256(event.encode()).digest(),
    )
    return entry


def sign(
    entries: Sequence[bytes],
    *,
    log: SigningKey = LOG,
    witnesses: Iterable[SigningKey] = (),
    time: int = NOW,
    origin: str = ORIGIN,
) -> bytes:
    """The checkpoint over these entries, cosigned."""
    checkpoint = Checkpoint(origin, len(entries), root_of([leaf(entry) for entry in entries]))
    note = parse_note(sign_checkpoint(checkpoint, [log], time))
    return write_note(note.text, [*note.signatures, *(cosign(note.text, key, time) for key in witnesses)])


def log_of(
    entries: Sequence[bytes], *, time: int = NOW, witnesses: Iterable[SigningKey] = WITNESSES[:3]
) -> dict[str, bytes]:
    """A whole log as it is served."""
    return {"checkpoint": sign(entries, witnesses=witnesses, time=time), **files_of(entries)}


class Memory:
    """A storage in memory; `fail` makes it refuse, `before_swap` is called once, before a swap."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fail = False
        self.before_swap: Any = None
        self._lock = threading.Lock()

    def read(self, path: str) -> bytes | None:
        if self.fail:
            raise JournalError("the disk is gone")
        return self.files.get(path)

    def write_many(self, files: Mapping[str, bytes]) -> None:
        self.files.update(files)

    def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
        hook, self.before_swap = self.before_swap, None
        if hook is not None:
            hook()
        with self._lock:
            if self.files.get(path) != old:
                return False
            self.files[path] = new
            return True


def prove(entries: list[bytes], old: int, size: int) -> tuple[bytes, ...]:
    """Consistency proof, from the definition of the tree."""
    leaves = [leaf(entry) for entry in entries[:size]]
    return tuple(
        prove_consistency(old, size, lambda places: [root_of(leaves[i << lv : i + 1 << lv]) for lv, i in places])
    )
