# SPDX-License-Identifier: Apache-2.0
"""What `PosixStorage` acknowledged is there after the plug was pulled at any moment, and never half of an object.

A disk like that of the journal's power-cut tests, torn in the same ways, with directories: the names in each become
durable by themselves, as far as its own sync went, so that a missing sync of any of them shows.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shieldwall.core.errors import Error
from shieldwall.ledger.storage import PosixStorage
from tests.ledger.test_journal_crash import TEARS, Op, Tear, drop

STAGING = "staging"
ROOT = "root"


def above(path: str) -> str:
    return path.rpartition("/")[0]


class Names:
    """Files and directories by path."""

    def __init__(self, files: dict[str, int], directories: set[str]) -> None:
        self.files, self.directories = dict(files), set(directories)

    def apply(self, op: Op, at: str | None = None) -> None:
        """Do what an operation does to names, or only its part in the directory `at`."""
        if op.kind == "mkdir":
            self.directories.add(op.path)
        elif op.kind == "rmdir":
            self.directories.discard(op.path)
        elif op.kind == "begin":
            self.files[op.path] = op.file
        if op.kind in {"link", "rename"} and at in {None, above(op.to)}:
            self.files[op.to] = op.file
        if op.kind in {"rename", "remove"} and at in {None, above(op.path)}:
            self.files.pop(op.path, None)

    def reachable(self) -> "Names":
        """Leave out what lies below a directory that is not there."""

        def there(path: str) -> bool:
            return "/" not in path or (above(path) in self.directories and there(above(path)))

        files = {path: file for path, file in self.files.items() if there(path)}
        return Names(files, {path for path in self.directories if there(path)})


class TreeDisk:
    """`storage_files.Files` in memory."""

    def __init__(self, contents: dict[int, bytes] | None = None, names: Names | None = None) -> None:
        found = names or Names({}, {ROOT, STAGING})
        self.start = dict(contents or {})
        self.contents = {file: bytearray(data) for file, data in self.start.items()}
        self.log: list[Op] = []
        self.first = Names(found.files, found.directories)
        self.now = Names(found.files, found.directories)
        self.handles: dict[int, str] = {}

    def note(self, op: Op) -> None:
        self.log.append(op)
        self.now.apply(op)

    def prepare(self, *, read_only: bool) -> None:
        pass

    def lock(self) -> Any:
        return contextlib.nullcontext()

    def staged(self) -> list[str]:
        return [path.removeprefix(f"{STAGING}/") for path in self.now.files if above(path) == STAGING]

    def stage(self, name: str, data: bytes, mode: int) -> int:
        file = max(self.contents, default=0) + 1
        self.contents[file] = bytearray(data)
        self.note(Op("begin", file, data=bytes(data), path=f"{STAGING}/{name}"))
        return file

    def close(self, handle: int) -> None:
        pass

    def unstage(self, name: str) -> None:
        if f"{STAGING}/{name}" in self.now.files:
            self.note(Op("remove", path=f"{STAGING}/{name}"))

    def link(self, name: str, path: str) -> None:
        if self.where(path) in self.now.files or self.where(path) in self.now.directories:
            raise FileExistsError
        self.note(Op("link", self.now.files[f"{STAGING}/{name}"], path=f"{STAGING}/{name}", to=self.where(path)))

    def replace(self, name: str, path: str) -> None:
        self.note(Op("rename", self.now.files[f"{STAGING}/{name}"], path=f"{STAGING}/{name}", to=self.where(path)))

    def make_dir(self, path: str, mode: int) -> None:
        assert above(self.where(path)) in self.now.directories
        if self.where(path) not in self.now.directories:
            self.note(Op("mkdir", path=self.where(path)))

    def remove_dir(self, path: str) -> None:
        for each in [each for each in self.now.files if above(each) == self.where(path)]:
            self.note(Op("remove", path=each))
        if self.where(path) in self.now.directories:
            self.note(Op("rmdir", path=self.where(path)))

    def open(self, path: str) -> int | None:
        if self.where(path) in self.now.directories:
            handle = -1 - len(self.handles)
            self.handles[handle] = self.where(path)
            return handle
        return self.now.files.get(self.where(path))

    def read(self, handle: int, limit: int) -> bytes | None:
        return None if handle < 0 else bytes(self.contents[handle])

    def sync(self, handles: Sequence[int]) -> None:
        for handle in handles:
            if handle < 0:
                self.log.append(Op("sync_dir", path=self.handles[handle]))
            else:
                self.log.append(Op("sync", handle))

    def end(self) -> None:
        pass

    def acknowledged(self, step: int) -> None:
        self.log.append(Op("ack", offset=step))

    def where(self, path: str) -> str:
        return f"{ROOT}/{path}" if path else ROOT

    def after_kill(self, done: int) -> "TreeDisk":
        disk = TreeDisk(self.start, self.first)
        for op in self.log[:done]:
            if op.kind == "begin":
                disk.contents[op.file] = bytearray(op.data)
            disk.now.apply(op)
        disk.log = self.log[:done]
        return disk

    def after_power_cut(self, done: int, tear: Tear, rng: random.Random) -> "TreeDisk":
        contents = {file: bytearray(data) for file, data in self.start.items()}
        unsynced: dict[int, Op] = {}
        names = Names(self.first.files, self.first.directories)
        waiting: dict[str, list[Op]] = {}
        for op in self.log[:done]:
            if op.kind == "begin":
                contents[op.file], unsynced[op.file] = bytearray(len(op.data)), op
            elif op.kind == "sync" and op.file in unsynced:
                contents[op.file] = bytearray(unsynced.pop(op.file).data)
            elif op.kind == "sync_dir":
                for each in waiting.pop(op.path, []):
                    names.apply(each, op.path)
            for path in {above(each) for each in (op.path, op.to) if each and op.kind != "sync_dir"}:
                waiting.setdefault(path, []).append(op)
        for path, ops in waiting.items():
            for op in ops[: rng.randint(0, len(ops))]:
                names.apply(op, path)
        for file, op in unsynced.items():
            tear(contents[file], [op], rng)
            # The length of a file may lag behind its bytes.
            del contents[file][rng.choice([0, len(op.data) // 2, len(op.data)]) :]
        return TreeDisk({file: bytes(data) for file, data in contents.items()}, names.reachable())


class Step:
    """One call, and what may be relied on after it."""

    def __init__(self, files: dict[str, bytes] | None = None, swap: int | None = None, discard: str = "") -> None:
        self.files, self.swap, self.discard = files or {}, swap, discard

    def run(self, storage: PosixStorage, *, place: str = "register") -> None:
        if self.files:
            storage.write_many(self.files)
        if self.swap is not None:
            old = storage.read(place)
            assert storage.compare_and_swap(place, old, b"checkpoint %d" % self.swap)
        if self.discard:
            storage.discard_partials([self.discard])


def story() -> list[Step]:
    """A log that grows over partial tiles, full ones and new directories, with a register after each batch."""
    steps: list[Step] = []
    for turn in range(6):
        number, width = 999 + turn // 3, turn % 3 + 1
        where = f"{number}" if number < 1000 else f"x001/{number % 1000:03}"
        part = f".p/{width}" if width < 3 else ""
        files = {f"tile/{kind}/{where}{part}": f"{kind} {number} {width} ".encode() * 90 for kind in ("0", "entries")}
        if turn == 2:
            files |= {"tile/1/003.p/232": b"upper" * 200}
        steps += [Step(files), Step(swap=turn)]
        if width == 3:
            steps.append(Step(discard=f"tile/0/{where}"))
    return steps


STORY = story()
EVERYTHING = {path: data for step in STORY for path, data in step.files.items()}


def lived(disk: TreeDisk, steps: Sequence[Step], kind: type[PosixStorage], place: str = "register") -> None:
    """Do the steps, noting each acknowledgement in the disk's log."""
    storage = kind("unused", files=disk)
    for number, step in enumerate(steps):
        step.run(storage, place=place)
        disk.acknowledged(number)
    storage.close()


def check(disk: TreeDisk, acknowledged: int, kind: type[PosixStorage] = PosixStorage, place: str = "register") -> None:
    """Open what was found and hold the storage to its word about the first `acknowledged` steps."""
    for path, file in disk.now.files.items():
        if path.startswith(f"{ROOT}/tile"):
            assert disk.contents[file] == EVERYTHING[path.removeprefix(f"{ROOT}/")], "half an object can be seen"
    storage = kind("unused", files=disk)
    assert disk.staged() == [], "something is left in staging"
    gone = tuple(f"{step.discard}.p/" for step in STORY[: acknowledged + 1] if step.discard)
    for step in STORY[:acknowledged]:
        for path, data in step.files.items():
            if not (gone and path.startswith(gone)):
                assert storage.read(path) == data, "an acknowledged object is lost"
    least = max((step.swap for step in STORY[:acknowledged] if step.swap is not None), default=-1)
    most = max((step.swap for step in STORY[: acknowledged + 1] if step.swap is not None), default=-1)
    held = storage.read(place)
    value = -1 if held is None else int(held.removeprefix(b"checkpoint "))
    assert least <= value <= most, "the register went back, or ahead of what was asked"
    storage.close()


def acks(log: list[Op]) -> int:
    return max((op.offset + 1 for op in log if op.kind == "ack"), default=0)


def cuts(disk: TreeDisk) -> Iterator[tuple[int, Tear, random.Random]]:
    for done in range(len(disk.log) + 1):
        for tear in TEARS:
            yield done, tear, random.Random(f"{done}{tear.__name__}")


def cut_anywhere(disk: TreeDisk, kind: type[PosixStorage] = PosixStorage, place: str = "register") -> None:
    lived(disk, STORY, kind, place)
    for done, tear, rng in cuts(disk):
        check(disk.after_power_cut(done, tear, rng), acks(disk.log[:done]), kind, place)


@pytest.mark.parametrize("place", ["register", "deep/er/register"])
def test_what_was_acknowledged_survives_a_power_cut_after_any_operation(place: str) -> None:
    """Each object whole or not at all, the register never behind what was acknowledged."""
    cut_anywhere(TreeDisk(), place=place)


def test_a_cut_batch_can_be_written_again_and_cut_again() -> None:
    """After the cut the story goes on, from the step that was not acknowledged, and is cut a second time."""
    disk = TreeDisk()
    lived(disk, STORY, PosixStorage)
    rng = random.Random(7)
    for done in range(0, len(disk.log) + 1, 2):
        held = acks(disk.log[:done])
        found = disk.after_power_cut(done, rng.choice(TEARS), rng)
        storage = PosixStorage("unused", files=found)
        for number in range(held, min(held + 3, len(STORY))):
            STORY[number].run(storage)
            found.acknowledged(number)
        for _ in range(4):
            cut = rng.randint(0, len(found.log))
            check(found.after_power_cut(cut, rng.choice(TEARS), rng), max(held, acks(found.log[:cut])))


def killed_then_cut(kind: type[PosixStorage]) -> None:
    """Kill the process anywhere, let the next one write the same again, pull the plug right after."""
    disk = TreeDisk()
    lived(disk, STORY, kind)
    for done in range(len(disk.log) + 1):
        held = acks(disk.log[:done])
        if held == len(STORY):
            break
        found = disk.after_kill(done)
        storage = kind("unused", files=found)
        STORY[held].run(storage)
        check(found.after_power_cut(len(found.log), drop, random.Random(done)), held + 1)


def test_what_a_killed_process_left_is_made_durable_by_the_next() -> None:
    """That a file or directory is there does not say that its name is durable."""
    killed_then_cut(PosixStorage)


@pytest.mark.parametrize("place", ["register", "deep/er/register"])
def test_a_register_that_was_read_after_a_kill_is_durable(place: str) -> None:
    """At the top at once; elsewhere once a swap was refused: whoever builds on it must not be thrown back."""
    disk = TreeDisk()
    lived(disk, STORY, PosixStorage, place)
    for done in range(len(disk.log) + 1):
        found = disk.after_kill(done)
        storage = PosixStorage("unused", files=found)
        if place != "register":
            assert storage.compare_and_swap(place, b"never", b"x") is False
        seen = storage.read(place)

        later = found.after_power_cut(len(found.log), drop, random.Random(done))
        assert PosixStorage("unused", files=later).read(place) == seen


def test_what_was_put_there_by_others_is_synced_when_it_is_written_again() -> None:
    """A tree copied back from a backup: that the same bytes can be read does not say that the disk has them."""
    disk = TreeDisk()
    disk.contents[1] = bytearray(EVERYTHING["tile/0/999.p/1"])
    for path in ("tile", "tile/0", "tile/0/999.p"):
        disk.note(Op("mkdir", path=f"{ROOT}/{path}"))
    disk.note(Op("begin", 1, data=bytes(disk.contents[1]), path=f"{ROOT}/tile/0/999.p/1"))

    lived(disk, STORY[:1], PosixStorage)

    check(disk.after_power_cut(len(disk.log), drop, random.Random(1)), 1)


class Lying(TreeDisk):
    """Files are never synced."""

    def sync(self, handles: Sequence[int]) -> None:
        super().sync([handle for handle in handles if handle < 0])


class Nameless(TreeDisk):
    """Directories are never synced."""

    def sync(self, handles: Sequence[int]) -> None:
        super().sync([handle for handle in handles if handle > 0])


class Flat(TreeDisk):
    """Only the directories files lie in are synced, not those above."""

    def sync(self, handles: Sequence[int]) -> None:
        holding = {above(path) for path in self.now.files}
        super().sync([handle for handle in handles if handle > 0 or self.handles[handle] in holding])


@pytest.mark.parametrize("kind", [Lying, Nameless, Flat])
def test_the_harness_sees_a_missing_sync(kind: type[TreeDisk]) -> None:
    """Were the storage to lose one of its syncs, the test of power cuts would fail."""
    with pytest.raises((AssertionError, Error)):
        cut_anywhere(kind())


class Trusting(PosixStorage):
    """Takes a directory that exists for one that is durable."""

    def _make_dirs(self, directories: Any) -> set[str]:
        self._known |= {path.removeprefix(f"{ROOT}/") for path in self._files.now.directories}  # type: ignore[attr-defined]
        return super()._make_dirs(directories)


def test_the_harness_sees_a_directory_that_was_taken_for_durable() -> None:
    with pytest.raises(AssertionError):
        killed_then_cut(Trusting)
