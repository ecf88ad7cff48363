# SPDX-License-Identifier: Apache-2.0
"""Whenever the log ends, by a kill or by the plug: no two checkpoints of one size, none smaller, none without tiles.

The power-cut disks of journal and storage lie side by side here under one order of operations; the plug is pulled after
each of them. The second part kills a real process under load.
"""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shieldwall.core.errors import Error
from shieldwall.ledger.integrate import gather, integrate
from shieldwall.ledger.journal import Journal, Settings
from shieldwall.ledger.log import Log, _State  # the harness shows that it would see a log that signs too early
from shieldwall.ledger.merkle import PlainHasher
from shieldwall.ledger.register import Register, Shard, create_register, read_register
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.tiles import read_bundle
from tests.ledger.log_support import KEYS, ORIGIN, TIME, cosigned, entry, house, naive_root, naive_tiles, text_of
from tests.ledger.test_journal_crash import ROOT, TEARS, Disk, Op, Tear, drop
from tests.ledger.test_storage_crash import TreeDisk

WAIT_S = 60.0
SEGMENTS = Settings(segment_bytes=65_536)
ROOTS: dict[int, bytes] = {}


def root_of(size: int) -> bytes:
    """The root of the first entries, computed the naive way, once."""
    if size not in ROOTS:
        ROOTS[size] = naive_root([entry(number) for number in range(size)])
    return ROOTS[size]


class Moment(NamedTuple):
    """Something that happened, in the one order of all."""

    what: str
    size: int = 0
    root: bytes = b""


class Ordered(list[Op]):
    """The log of one disk, which notes in the common order that something was added."""

    def __init__(self, moments: list[Moment], name: str) -> None:
        super().__init__()
        self.moments, self.name = moments, name

    def append(self, op: Op) -> None:
        """Note it here and there."""
        super().append(op)
        self.moments.append(Moment(self.name))


class Signing(PosixStorage):
    """Notes each checkpoint before it is shown: from then on it may have been seen."""

    moments: list[Moment]

    def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Note it, then do it."""
        found = text_of(new)
        self.moments.append(Moment("signed" if path == "checkpoint" else "witnessed", found.size, found.root))
        return super().compare_and_swap(path, old, new)


class World:
    """Three disks and what lives on them."""

    def __init__(self, disks: tuple[Disk, TreeDisk, TreeDisk] | None = None, kind: type[Log] = Log) -> None:
        self.kind = kind
        self.moments: list[Moment] = []
        self.disks = disks or (Disk(), TreeDisk(), TreeDisk())
        for disk, name in zip(self.disks, ("journal", "tiles", "register"), strict=True):
            disk.log = Ordered(self.moments, name)
        self.journal = Journal(ROOT, settings=SEGMENTS, files=self.disks[0])
        self.tiles = Signing("unused", files=self.disks[1])
        self.tiles.moments = self.moments
        self.register = PosixStorage("unused", files=self.disks[2])

    def open(self) -> Log:
        """Open the log; begin it where that has not been done."""
        if self.register.read("register") is None:
            create_register(self.register, self.tiles, origin=ORIGIN, keys=[KEYS[0].key], time=TIME)
        return self.kind(
            self.journal,
            self.tiles,
            self.register,
            origin=ORIGIN,
            keys=KEYS[:1],
            clock=lambda: TIME,
            hasher=PlainHasher(),
            discard=self.tiles.discard_partials,
            witness=lambda note, _: cosigned(note),
        )

    def live(self, counts: Sequence[int]) -> "World":
        """Append and publish, each a few times, with witnesses every other time."""
        log = self.open()
        for turn, count in enumerate(counts):
            start = self.journal.size
            for promise in [self.journal.append(entry(number)) for number in range(start, start + count)]:
                promise.result(WAIT_S)
            size = log.publish()
            self.moments.append(Moment("published", size))
            if turn % 2:
                log.collect()
        return self

    def close(self) -> "World":
        """Let go of everything."""
        self.journal.close()
        self.tiles.close()
        self.register.close()
        return self

    def signed(self, done: int | None = None) -> list[Moment]:
        """Checkpoints that may have been seen by then."""
        return [each for each in self.moments[:done] if each.what in {"signed", "witnessed"}]

    def cut(self, done: int, tear: Tear, seed: str) -> tuple[Disk, TreeDisk, TreeDisk]:
        """The disks as they are found when the plug was pulled after so many moments."""
        rng = random.Random(seed)
        names = [each.what for each in self.moments[:done]]
        journal, tiles, register = self.disks
        return (
            journal.after_power_cut(names.count("journal"), tear, rng),
            tiles.after_power_cut(names.count("tiles"), tear, rng),
            register.after_power_cut(names.count("register"), tear, rng),
        )


def check(world: World, done: int, tear: Tear) -> World:
    """Start again on what was found, hold the log to its word, and let it go on."""
    before = world.signed(done)
    found = World(world.cut(done, tear, f"{done}{tear.__name__}"), world.kind)
    try:
        log = found.open()
        size = read_register(found.register)[0].shard.size
        most = max((each.size for each in before), default=0)
        assert size >= most, "a checkpoint was signed that the register does not know"
        assert all(each.root == root_of(each.size) for each in before), "a checkpoint is not over the journal's entries"
        for index in range(-(-most // 256)):
            bundle = read_bundle(found.tiles.read, most, index)
            assert bundle == [entry(number) for number in range(index * 256, min(index * 256 + 256, most))]
        acknowledged = max((each.size for each in world.moments[:done] if each.what == "published"), default=0)
        assert log.status().published >= acknowledged, "a checkpoint that was published is gone"
        found.live([2])
        sizes = [each.size for each in (*before, *found.signed()) if each.what == "signed"]
        assert sizes == sorted(sizes), "the log became smaller"
        assert all(each.root == root_of(each.size) for each in found.signed()), "two checkpoints of one size"
        assert log.status().published <= found.journal.size
    finally:
        found.close()
    return found


LIFE = (0, 3, 250, 10, 260, 0, 40)


def test_the_log_survives_a_power_cut_after_any_operation() -> None:
    """In turn with each kind of damage to what was not synced."""
    world = World().live(LIFE).close()
    assert len(world.signed()) > 6

    for done in range(len(world.moments) + 1):
        check(world, done, TEARS[done % len(TEARS)])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tear", TEARS, ids=lambda tear: tear.__name__)
def test_the_log_survives_a_power_cut_after_any_operation_in_any_way(tear: Tear) -> None:
    world = World().live(LIFE).close()

    for done in range(len(world.moments) + 1):
        check(world, done, tear)


def test_a_log_that_was_cut_while_it_mended_a_cut_survives() -> None:
    """The second cut falls into the life after the first."""
    world = World().live(LIFE).close()
    rng = random.Random(4)
    for done in range(0, len(world.moments) + 1, 9):
        second = check(world, done, rng.choice(TEARS))
        for _ in range(2):
            cut = rng.randint(0, len(second.moments))
            earlier = [each for each in world.moments[:done] if each.what in {"signed", "witnessed", "published"}]
            shift = len(earlier)
            second.moments[:0] = earlier
            check(second, cut + shift, rng.choice(TEARS))
            del second.moments[:shift]


class Hasty(Log):
    """Signs before the tiles are written and the register is replaced."""

    def _grow(self, state: _State, target: int) -> _State:
        bundles = gather(self._journal, state.edge.size, target, most=self._most, most_bytes=self._most_bytes)
        step = integrate(state.edge, bundles, self._hasher)
        shard = Shard(ORIGIN, step.edge.size, step.edge.root, state.register.shard.keys)
        self._sign(Register(shard, state.register.time))
        return super()._grow(state, target)


def test_the_harness_sees_a_signature_that_comes_too_early() -> None:
    """Were the log to sign before the register is replaced, the test of power cuts would fail."""
    world = World(kind=Hasty).live(LIFE).close()

    with pytest.raises((AssertionError, Error)):  # noqa: PT012  the first cut that shows it ends the search
        for done in range(len(world.moments) + 1):
            check(world, done, drop)


@pytest.mark.parametrize("storage", ["tiles", "register"])
def test_the_harness_sees_a_storage_that_does_not_wait(monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    """Were what the log asks for not durable when it signs, the test of power cuts would fail."""
    world = World()
    kept = getattr(world, storage)
    monkeypatch.setattr(kept, "_sync_dirs", lambda _directories: None)
    world.live(LIFE).close()

    with pytest.raises((AssertionError, Error)):  # noqa: PT012  the first cut that shows it ends the search
        for done in range(len(world.moments) + 1):
            check(world, done, drop)


CHILD = """
import os, sys, threading
from pathlib import Path
from shieldwall.ledger.storage import PosixStorage
from tests.ledger.log_support import House, cosigned, entry, text_of

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Telling(PosixStorage):
    def compare_and_swap(self, path, old, new):
        found = text_of(new)
        tell(path, found.size, found.root.hex())
        return super().compare_and_swap(path, old, new)

house = House(Path(sys.argv[1]))
house.tiles.close()
house.tiles = Telling(Path(sys.argv[1]) / "ledger", private=["tile/entries"])
log = house.log(witness=lambda note, _: cosigned(note), step_entries=512)
tell("open", house.journal.size)

def load():
    while True:
        start = house.journal.size
        group = [house.journal.append(entry(number)) for number in range(start, start + 1 + start % 90)]
        tell("held", max(promise.result() for promise in group))

threading.Thread(target=load, daemon=True).start()
turn = 0
while True:
    log.publish()
    turn += 1
    if turn % 3 == 0:
        log.collect()
"""


def naive_roots(entries: Sequence[bytes]) -> list[bytes]:
    """Roots of all beginnings of a log, from a stack of full subtrees."""
    found = [hashlib.sha256().digest()]
    stack: list[tuple[int, bytes]] = []
    for each in entries:
        level, digest = 0, hashlib.sha256(b"\0" + each).digest()
        while stack and stack[-1][0] == level:
            digest = hashlib.sha256(b"\1" + stack.pop()[1] + digest).digest()
            level += 1
        stack.append((level, digest))
        for _, left in reversed(stack[:-1]):
            digest = hashlib.sha256(b"\1" + left + digest).digest()
        found.append(digest)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_the_log_survives_kill_9_under_load(tmp_path: Path) -> None:
    """A process that appends, publishes and collects is killed at random moments, always on the same directory.

    40 times; SHIELDWALL_KILLS asks for more.
    """
    kills = int(os.environ.get("SHIELDWALL_KILLS", "40"))
    rng = random.Random(40)
    with house(tmp_path) as found:
        found.begin()
    told: list[list[str]] = []
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            # So many lines, not so many seconds: a slow machine is killed in the middle of its work too.
            printed = b"".join(child.stdout.readline() for _ in range(rng.randint(1, 60)))
            time.sleep(rng.random() * 0.03)
        finally:
            child.kill()
            printed += child.stdout.read()
            child.wait()
            child.stdout.close()
        lines = [line.split() for line in printed.decode().split("\n")[:-1]]
        assert lines, "the log did not open again"
        assert lines[0][0] == "open"
        told += lines

    with house(tmp_path) as found:
        log = found.log()
        entries = found.entries()
        assert entries == [entry(number) for number in range(len(entries))], "an entry is lost or not as appended"
        assert len(entries) > max((int(line[1]) for line in told if line[0] == "held"), default=-1)
        roots = naive_roots(entries)
        shown: dict[str, list[int]] = {"checkpoint": [], "checkpoint.witnessed": []}
        for line in told:
            if line[0] in shown:
                assert roots[int(line[1])].hex() == line[2], "two histories were signed"
                shown[line[0]].append(int(line[1]))
        assert all(sizes == sorted(sizes) for sizes in shown.values()), "the log became smaller"
        assert len(set(shown["checkpoint"])) > kills, "hardly anything happened"
        assert log.publish() == len(entries)
        held: dict[str, Any] = {path: found.tiles.read(path) for path in naive_tiles(entries)}
        assert held == naive_tiles(entries)
