# SPDX-License-Identifier: Apache-2.0
"""Whatever was acknowledged is there after the plug was pulled, at any moment, with any of the rest lost or torn.

`Disk` is a disk in memory that remembers the order of writes and syncs. A workload runs on it once; then the plug is
pulled after every single operation: what was synced stays, the rest is dropped, kept, torn or reordered.
"""

import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shieldwall.core.errors import JournalError
from shieldwall.ledger import Journal, Settings

SMALL = Settings(segment_bytes=16_384)
ROOT = Path("/journal")
SECTOR = 512
WAIT_S = 20.0


class Op(NamedTuple):
    """Something the disk was asked, or an acknowledgement at that moment."""

    kind: str
    file: int = -1
    offset: int = 0
    data: bytes = b""
    path: str = ""
    to: str = ""


class Disk:
    """`Files` in memory, with a log of everything that was asked."""

    def __init__(self, contents: dict[int, bytes] | None = None, names: dict[str, int] | None = None) -> None:
        self.start = (dict(contents or {}), dict(names or {}))
        self.contents = {file: bytearray(data) for file, data in (contents or {}).items()}
        self.paths = dict(names or {})
        self.log: list[Op] = []
        self.lock = threading.RLock()

    def prepare(self, directory: Path) -> None:
        pass

    def names(self, directory: Path) -> list[str]:
        with self.lock:
            return [Path(path).name for path in self.paths]

    def create_filled(self, path: Path, start: bytes, size: int) -> None:
        data = start.ljust(size, b"\0")
        with self.lock:
            file = max(self.contents, default=0) + 1
            self.contents[file] = bytearray(data)
            self.paths[str(path)] = file
            self.log.append(Op("begin", file, data=data, path=str(path)))
        with self.lock:
            self.log.append(Op("filled", file, data=data))

    def rename(self, path: Path, to: Path) -> None:
        with self.lock:
            self.paths[str(to)] = self.paths.pop(str(path))
            self.log.append(Op("rename", path=str(path), to=str(to)))

    def remove(self, path: Path) -> None:
        with self.lock:
            self.paths.pop(str(path), None)
            self.log.append(Op("remove", path=str(path)))

    def sync_dir(self, directory: Path) -> None:
        self.log.append(Op("sync_dir"))

    def open(self, path: Path) -> int:
        return self.paths[str(path)]

    def size(self, handle: int) -> int:
        return len(self.contents[handle])

    def read(self, handle: int, offset: int, size: int) -> bytes:
        with self.lock:
            return bytes(self.contents[handle][offset : offset + size])

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        with self.lock:
            assert offset + len(data) <= len(self.contents[handle])
            self.contents[handle][offset : offset + len(data)] = data
            self.log.append(Op("write", handle, offset, bytes(data)))

    def datasync(self, handle: int) -> None:
        self.log.append(Op("sync", handle))

    def close(self, handle: int) -> None:
        pass

    def acknowledged(self, index: int) -> None:
        self.log.append(Op("ack", offset=index))

    def after_kill(self, done: int) -> "Disk":
        """The disk when the process, not the power, ended there: everything written can be read, not all is synced."""
        disk = Disk(*self.start)
        for op in self.log[:done]:
            if op.kind in ("begin", "write"):
                content = disk.contents.setdefault(op.file, bytearray(len(op.data)))
                content[op.offset : op.offset + len(op.data)] = op.data
            _apply_names(disk.paths, [op])
        disk.log = self.log[:done]
        return disk

    def after_power_cut(self, done: int, tear: "Tear", rng: random.Random) -> "Disk":
        """The disk as it is found when the plug was pulled after the first `done` operations."""
        contents = {file: bytearray(data) for file, data in self.start[0].items()}
        paths = dict(self.start[1])
        pending: dict[int, list[Op]] = {file: [] for file in contents}
        unnamed: list[Op] = []
        for op in self.log[:done]:
            if op.kind == "begin":
                contents[op.file] = bytearray(len(op.data))
                pending[op.file] = [op]
                unnamed.append(op)
            elif op.kind == "filled":
                contents[op.file], pending[op.file] = bytearray(op.data), []
            elif op.kind == "write":
                pending[op.file].append(op)
            elif op.kind == "sync":
                for write in pending[op.file]:
                    contents[op.file][write.offset : write.offset + len(write.data)] = write.data
                pending[op.file] = []
            elif op.kind in ("rename", "remove"):
                unnamed.append(op)
            elif op.kind == "sync_dir":
                _apply_names(paths, unnamed)
                unnamed = []
        # Names go to the disk in the order of the file system's own journal; how far it got is open.
        _apply_names(paths, unnamed[: rng.randint(0, len(unnamed))])
        for file, writes in pending.items():
            tear(contents[file], writes, rng)
        return Disk({file: bytes(data) for file, data in contents.items()}, paths)


def _apply_names(paths: dict[str, int], ops: list[Op]) -> None:
    for op in ops:
        if op.kind == "begin":
            paths[op.path] = op.file
        elif op.kind == "rename" and op.path in paths:
            paths[op.to] = paths.pop(op.path)
        elif op.kind == "remove":
            paths.pop(op.path, None)


Tear = Callable[[bytearray, list[Op], random.Random], None]


def drop(content: bytearray, writes: list[Op], rng: random.Random) -> None:
    """Nothing that was not synced arrived."""


def keep(content: bytearray, writes: list[Op], rng: random.Random) -> None:
    """All of it arrived."""
    for op in writes:
        content[op.offset : op.offset + len(op.data)] = op.data


def sectors(content: bytearray, writes: list[Op], rng: random.Random) -> None:
    """Of each write, in any order, some sectors of 512 bytes arrived."""
    for op in rng.sample(writes, len(writes)):
        for at in range(op.offset - op.offset % SECTOR, op.offset + len(op.data), SECTOR):
            begin, end = max(at, op.offset), min(at + SECTOR, op.offset + len(op.data))
            if rng.random() < 0.5:
                content[begin:end] = op.data[begin - op.offset : end - op.offset]


def prefix(content: bytearray, writes: list[Op], rng: random.Random) -> None:
    """Each write stopped at some byte."""
    for op in writes:
        cut = rng.randint(0, len(op.data))
        content[op.offset : op.offset + cut] = op.data[:cut]


def scattered(content: bytearray, writes: list[Op], rng: random.Random) -> None:
    """Of each write, in any order, some runs of bytes arrived, most of it among them."""
    for op in rng.sample(writes, len(writes)):
        at = 0
        while at < len(op.data):
            run = rng.randint(1, 900)
            if rng.random() < 0.8:
                content[op.offset + at : op.offset + min(at + run, len(op.data))] = op.data[at : at + run]
            at += run


TEARS: list[Tear] = [drop, keep, sectors, prefix, scattered]


class Life(NamedTuple):
    """What was appended and, by index, what it was."""

    disk: Disk
    entries: list[tuple[bytes, bytes]]


def lived(
    disk: Disk, known: list[tuple[bytes, bytes]], *, seed: int, rounds: int, kind: type[Journal] = Journal
) -> Life:
    """Append groups of entries of many sizes, noting each acknowledgement in the disk's log."""
    rng = random.Random(seed)
    journal = kind(ROOT, settings=SMALL, files=disk)
    entries = known[: len(journal)]
    for turn in range(rounds):
        group = []
        for _ in range(rng.choice([1, 2, 2, 4]) if turn else 1):
            size, more = rng.choice([20, 300, 300, 600, 1_500, 4_000]), rng.choice([0, 200])
            if len(entries) < len(known):
                # The size of an entry cut off before, so that what is left of its successors would lie exactly right.
                size, more = map(len, known[len(entries)])
            pair = (f"{seed}:{len(entries)} ".encode().ljust(size, b"e"), b"o" * more)
            entries.append(pair)
            group.append(journal.append(*pair))
        for promise in group:
            disk.acknowledged(promise.result(WAIT_S))
        if turn == rounds // 2:
            journal.close()
            journal = kind(ROOT, settings=SMALL, files=disk)
    journal.close()
    return Life(disk, entries)


def check(disk: Disk, acknowledged: int, entries: list[tuple[bytes, bytes]], kind: type[Journal] = Journal) -> None:
    """Recover, and hold the journal to its word. Raises AssertionError, or what the journal raises."""
    journal = kind(ROOT, settings=SMALL, files=disk)
    read = list(journal.entries())
    journal.close()
    assert [index for index, _, _ in read] == list(range(len(read))), "indexes have a hole"
    assert len(read) >= acknowledged, "an acknowledged entry is lost"
    assert [(entry, opening) for _, entry, opening in read] == entries[: len(read)], "an entry is not as appended"


def acks(log: list[Op]) -> int:
    return max((op.offset + 1 for op in log if op.kind == "ack"), default=0)


def cuts(life: Life, *, every: int = 1) -> Iterator[tuple[int, Tear, random.Random]]:
    for done in range(0, len(life.disk.log) + 1, every):
        for tear in TEARS:
            yield done, tear, random.Random(f"{done}{tear.__name__}")


def test_every_acknowledged_entry_survives_a_power_cut_after_any_operation() -> None:
    """Cut after each operation of a workload over several segments and a restart, in five ways."""
    life = lived(Disk(), [], seed=1, rounds=24)
    assert len({op.file for op in life.disk.log}) > 4, "the workload must cross segments"

    for done, tear, rng in cuts(life):
        check(life.disk.after_power_cut(done, tear, rng), acks(life.disk.log[:done]), life.entries)


def second_lives(kind: type[Journal]) -> None:
    """Cut, recover, append other entries of the same sizes, cut again at any moment of that second life."""
    life = lived(Disk(), [], seed=2, rounds=14, kind=kind)
    for done, tear, rng in cuts(life, every=3):
        held = acks(life.disk.log[:done])
        found = life.disk.after_power_cut(done, tear, rng)
        second = lived(found, life.entries, seed=3, rounds=2, kind=kind)
        for _ in range(4):
            cut = rng.randint(0, len(second.disk.log))
            later = second.disk.after_power_cut(cut, rng.choice(TEARS), rng)
            journal = kind(ROOT, settings=SMALL, files=later)
            read = [(entry, opening) for _, entry, opening in journal.entries()]
            journal.close()
            assert len(read) >= max(held, acks(second.disk.log[:cut])), "an acknowledged entry is lost"
            # Before its first sync the second life has not settled what it found: either history may stand there.
            assert read in (second.entries[: len(read)], life.entries[: len(read)]), "an entry of the past came back"


def test_nothing_of_a_cut_tail_comes_back_in_a_second_life() -> None:
    """The same after recovery was itself cut short, and after new entries took the place of lost ones."""
    second_lives(Journal)


def killed_then_cut(kind: type[Journal]) -> None:
    """Kill the process anywhere, go on in the next segment, pull the plug right after the first acknowledgement."""
    life = lived(Disk(), [], seed=5, rounds=14, kind=kind)
    for done in range(len(life.disk.log) + 1):
        disk = life.disk.after_kill(done)
        journal = kind(ROOT, settings=SMALL, files=disk)
        entries = [(entry, opening) for _, entry, opening in journal.entries()]
        # So long that it seldom fits beside anything: the sync of its own segment does nothing for the one before.
        entries.append((b"next", bytes(14_000)))
        disk.acknowledged(journal.append(*entries[-1]).result(WAIT_S))
        cut = len(disk.log)
        journal.close()
        check(disk.after_power_cut(cut, drop, random.Random(done)), len(entries), entries, kind)


def test_what_was_read_back_after_a_kill_is_durable_before_anything_new() -> None:
    """Recovery does not build on entries that only the page cache holds."""
    killed_then_cut(Journal)


class Lying(Disk):
    """A disk whose fdatasync is a call into nothing."""

    def datasync(self, handle: int) -> None:
        pass


class Nameless(Disk):
    """A disk whose directories are never synced."""

    def sync_dir(self, directory: Path) -> None:
        pass


@pytest.mark.parametrize("kind", [Lying, Nameless])
def test_the_harness_sees_a_missing_sync(kind: type[Disk]) -> None:
    """Were the journal to lose a call to fdatasync or to the sync of the directory, the test above would fail."""
    life = lived(kind(), [], seed=1, rounds=24)

    with pytest.raises((AssertionError, JournalError)):  # noqa: PT012  the first cut that shows it ends the search
        for done, tear, rng in cuts(life):
            check(life.disk.after_power_cut(done, tear, rng), acks(life.disk.log[:done]), life.entries)


class Careless(Journal):
    """A journal that cuts the tail in its mind only."""

    def _secure(self, held: Any) -> None:
        pass


def test_the_harness_sees_a_tail_that_was_not_zeroed() -> None:
    """Were recovery to leave the torn tail on the disk, the test of second lives would fail."""
    with pytest.raises((AssertionError, JournalError)):
        second_lives(Careless)


def test_the_harness_sees_a_recovery_that_does_not_sync() -> None:
    """Were recovery to take what it reads for durable, the test of kill and power cut would fail."""
    with pytest.raises((AssertionError, JournalError)):
        killed_then_cut(Careless)


CHILD = """
import sys
from shieldwall.ledger import Journal, Settings
journal = Journal(sys.argv[1], settings=Settings(segment_bytes=65536))
run, number = sys.argv[2], 0
print("open", flush=True)
while True:
    group = []
    for _ in range(1 + number % 5):
        entry = f"{run}:{number} ".encode()
        group.append((journal.append(entry.ljust(50 + number * 37 % 1500, b"."), b"o" * (number % 300)), number))
        number += 1
    for promise, which in group:
        print(promise.result(), which, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_acknowledged_entry_survives_kill_9(tmp_path: Path) -> None:
    """A process that prints what it was promised is killed 50 times at random moments, always on the same directory."""
    rng = random.Random(50)
    promised: dict[int, bytes] = {}
    for run in range(50):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(run)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            assert select.select([child.stdout], [], [], WAIT_S)[0], "the child does not start"
            time.sleep(rng.random() * 0.12)
        finally:
            child.send_signal(signal.SIGKILL)
            printed = child.communicate(timeout=WAIT_S)[0].decode()
        lines = printed.split("\n")[:-1]
        assert lines[0] == "open"
        for text in lines[1:]:
            index, number = text.split()
            promised[int(index)] = f"{run}:{number} ".encode().ljust(50 + int(number) * 37 % 1500, b".")
        journal = Journal(tmp_path, settings=Settings(segment_bytes=65_536))
        held = [entry for _, entry, _ in journal.entries()]
        journal.close()
        assert all(held[index] == entry for index, entry in promised.items())

    assert len(promised) > 500
