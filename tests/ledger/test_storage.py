# SPDX-License-Identifier: Apache-2.0
"""`PosixStorage` keeps the promises of `Storage`, leads nowhere else, and leaves nothing lying about."""

import errno
import multiprocessing
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from shieldwall.core.errors import DataLocked, InvalidInput, JournalCorrupt, JournalError, LimitExceeded
from shieldwall.ledger import storage_files
from shieldwall.ledger.storage import MAX_OBJECT_BYTES, PosixStorage
from shieldwall.ledger.storage_files import PosixFiles
from tests.ledger.storage_contract import StorageContract


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def storage(root: Path) -> Iterator[PosixStorage]:
    found = PosixStorage(root, private=["tile/entries"])
    yield found
    found.close()


class TestPosixStorage(StorageContract):
    """The directory."""


class Watched(PosixFiles):
    """Real files that count syncs and can be made to fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root.with_name("staging"))
        self.calls = self.synced = 0
        self.fail_sync = self.fail_stage = self.fail_link = False
        self.before_link: Callable[[str], None] | None = None

    def sync(self, handles: Sequence[int]) -> None:
        self.calls += 1
        self.synced += len(handles)
        if self.fail_sync:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(handles)

    def stage(self, name: str, data: bytes, mode: int) -> int:
        if self.fail_stage:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().stage(name, data, mode)

    def link(self, name: str, path: str) -> None:
        if self.before_link is not None:
            self.before_link(path)
        if self.fail_link:
            raise OSError(errno.EPERM, "Operation not permitted")
        super().link(name, path)


def watched(root: Path) -> tuple[Watched, PosixStorage]:
    files = Watched(root)
    return files, PosixStorage(root, files=files)


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def open_handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_holds_the_objects_and_nothing_else(storage: PosixStorage, root: Path) -> None:
    """Whoever serves the directory as it is shows nothing that is being written."""
    storage.write_many({"tile/0/000": b"x", "tile/entries/000": b"y"})
    storage.compare_and_swap("checkpoint", None, b"1")
    storage.compare_and_swap("checkpoint", b"1", b"2")
    with pytest.raises(JournalCorrupt):
        storage.write_new("tile/0/000", b"other")

    assert below(root) == ["checkpoint", "tile/0/000", "tile/entries/000"]
    assert below(root.with_name(".ledger.staging")) == ["lock"]


def test_what_was_written_is_there_after_a_restart(storage: PosixStorage, root: Path) -> None:
    storage.write_new("tile/0/000", b"x")
    storage.close()

    again = PosixStorage(root)

    assert again.read("tile/0/000") == b"x"
    again.close()


def test_modes_fit_serving_whatever_the_umask(root: Path) -> None:
    """All can read the tree, only its owner what is private and what is being written."""
    before = os.umask(0o077)
    try:
        storage = PosixStorage(root, private=["tile/entries"])
        storage.write_many({"tile/0/x001/000": b"x", "tile/entries/x001/000.p/1": b"y", "tile/entriesx": b"z"})
        storage.compare_and_swap("checkpoint", None, b"1")
        storage.compare_and_swap("checkpoint", b"1", b"2")
        storage.close()
    finally:
        os.umask(before)

    assert {mode(root / path) for path in ("", "tile", "tile/0", "tile/0/x001")} == {0o755}
    assert {mode(root / path) for path in ("tile/0/x001/000", "tile/entriesx", "checkpoint")} == {0o644}
    private = ("tile/entries", "tile/entries/x001", "tile/entries/x001/000.p")
    assert {mode(root / path) for path in private} == {0o700}
    assert mode(root / "tile/entries/x001/000.p/1") == 0o600
    assert mode(root.with_name(".ledger.staging")) == 0o700


def test_what_a_killed_process_left_in_staging_is_removed(root: Path) -> None:
    PosixStorage(root).close()
    (root.with_name(".ledger.staging") / "0123456789abcdef").write_bytes(b"half")

    PosixStorage(root).close()

    assert below(root.with_name(".ledger.staging")) == ["lock"]


def test_symbolic_links_are_not_followed(storage: PosixStorage, root: Path, tmp_path: Path) -> None:
    """Neither as the last part of a path nor before it, neither for reading nor for writing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "nowhere").symlink_to(outside / "none")

    for path in ("link/secret", "file", "nowhere", "link/none"):
        with pytest.raises(JournalError, match="symbolic link"):
            storage.read(path)
        with pytest.raises(JournalError):
            storage.write_new(path, b"secret")
        with pytest.raises(JournalError):
            storage.compare_and_swap(path, None, b"x")
        with pytest.raises(JournalError):
            storage.compare_and_swap(path, b"secret", b"x")
    assert below(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_directory_itself_may_lie_behind_a_link(tmp_path: Path) -> None:
    """That is the operator's choice; staging lies beside the real one."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")

    storage = PosixStorage(tmp_path / "data" / "ledger")
    storage.write_new("a", b"x")
    storage.close()

    assert (tmp_path / "disk" / "ledger" / "a").read_bytes() == b"x"
    assert (tmp_path / "disk" / ".ledger.staging").is_dir()


def test_what_is_no_file_is_refused(storage: PosixStorage, root: Path) -> None:
    """A named pipe would keep the reader for ever, a device never ends."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)

        for path in ("pipe", "socket"):
            with pytest.raises(JournalError, match=f"{path} cannot be read"):
                storage.read(path)


def test_a_file_greater_than_any_object_is_not_read(storage: PosixStorage, root: Path) -> None:
    (root / "great").touch()
    os.truncate(root / "great", MAX_OBJECT_BYTES + 1)

    with pytest.raises(LimitExceeded, match="great"):
        storage.read("great")


def test_a_path_through_a_file_or_onto_a_directory_is_refused(storage: PosixStorage) -> None:
    """An object store could hold both; a directory cannot, and says so."""
    storage.write_new("a", b"x")
    storage.write_new("b/c", b"x")

    with pytest.raises(InvalidInput, match="is a file"):
        storage.write_new("a/b", b"y")
    with pytest.raises(JournalCorrupt):
        storage.write_new("b", b"y")
    assert storage.compare_and_swap("b", None, b"y") is False
    assert storage.trouble == ""
    storage.write_new("d", b"z")


def test_one_batch_costs_few_waits(root: Path) -> None:
    """The contents of all files are synced in groups, side by side, and each directory once."""
    files, storage = watched(root)
    storage.write_new("tile/0/000", b"x")
    files.calls = files.synced = 0

    storage.write_many({f"tile/0/{number:03}": b"x" for number in range(1, 129)})

    assert files.calls == 2
    assert files.synced == 128 + 1
    storage.close()


def test_no_handle_is_left_open(storage: PosixStorage) -> None:
    """A node writes every second for years."""
    storage.write_many({f"tile/{number}/000.p/1": b"x" for number in range(300)})
    before = open_handles()

    storage.write_many({f"tile/{number}/000.p/2": b"x" for number in range(300)})
    storage.compare_and_swap("a", None, b"x")
    storage.compare_and_swap("a", None, b"x")
    storage.read("a")
    storage.read("tile/0")
    with pytest.raises(JournalCorrupt):
        storage.write_new("a", b"y")
    storage.discard_partials(["a", "b"])

    assert open_handles() == before


def test_after_a_failed_sync_nothing_more_is_written(root: Path) -> None:
    """The kernel may have dropped the pages and would say that all is well the second time."""
    files, storage = watched(root)
    storage.write_new("a", b"x")
    files.fail_sync = True

    with pytest.raises(JournalError, match="Input/output error"):
        storage.write_new("b", b"x")
    files.fail_sync = False

    assert "sync failed" in storage.trouble
    assert storage.read("a") == b"x"
    assert storage.read("b") is None, "a file whose sync failed does not get its place"
    for write in (
        lambda: storage.write_new("c", b"x"),
        lambda: storage.compare_and_swap("r", None, b"x"),
        lambda: storage.discard_partials(["a"]),
    ):
        with pytest.raises(JournalError, match="sync failed"):
            write()
    assert below(root) == ["a"]
    assert below(root.with_name("staging")) == ["lock"]
    storage.close()


def test_a_full_disk_is_an_error_once_and_no_more_when_there_is_room(root: Path) -> None:
    files, storage = watched(root)
    files.fail_stage = True

    with pytest.raises(JournalError, match="No space left") as caught:
        storage.write_many({"tile/0/000": b"x", "tile/0/001": b"x"})
    files.fail_stage = False
    storage.write_many({"tile/0/000": b"x", "tile/0/001": b"x"})

    assert "room" in caught.value.hint
    assert below(root) == ["tile/0/000", "tile/0/001"]
    storage.close()


def test_a_file_system_without_links_is_named(root: Path) -> None:
    files, storage = watched(root)
    files.fail_link = True

    with pytest.raises(JournalError) as caught:
        storage.write_new("a", b"x")

    assert "hard links" in caught.value.hint
    assert (below(root), below(root.with_name("staging"))) == ([], ["lock"])
    storage.close()


@pytest.mark.parametrize("theirs", [b"same", b"other"])
def test_who_does_not_wait_for_the_lock_is_not_overwritten(root: Path, theirs: bytes) -> None:
    """A file that appears between look and link stays; the same bytes are as good as ours."""
    files, storage = watched(root)
    files.before_link = lambda path: (root / path).write_bytes(theirs)  # type: ignore[assignment,return-value]

    if theirs == b"same":
        storage.write_new("a", b"same")
    else:
        with pytest.raises(JournalCorrupt):
            storage.write_new("a", b"same")
    assert storage.compare_and_swap("b", None, b"mine") is False

    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (theirs, theirs)
    storage.close()


def test_a_process_that_holds_the_lock_for_too_long_is_told_of(
    storage: PosixStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PosixStorage(root)
    monkeypatch.setattr(storage_files, "_LOCK_WAIT_S", 0.02)

    with other._files.lock(), pytest.raises(DataLocked):
        storage.write_new("a", b"x")

    storage.write_new("a", b"x")
    assert other.read("a") == b"x"
    other.close()


def _count(root: str, rounds: int) -> None:
    storage = PosixStorage(root)
    for _ in range(rounds):
        while True:
            held = storage.read("counter")
            if storage.compare_and_swap("counter", held, b"%d" % (int(held or b"0") + 1)):
                break
    storage.close()


def test_swaps_of_several_processes_do_not_lose_one_another(root: Path) -> None:
    """Four processes count to 40 together."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(str(root), 10)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    storage = PosixStorage(root)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert storage.read("counter") == b"40"
    storage.close()


def test_partials_go_only_where_the_full_tile_is(storage: PosixStorage) -> None:
    storage.write_many({"tile/0/000.p/1": b"x", "tile/0/000.p/2": b"y", "tile/0/001.p/1": b"z", "tile/0/000": b"full"})

    storage.discard_partials(["tile/0/000", "tile/0/001", "tile/0/002"])
    storage.discard_partials(["tile/0/000"])

    assert storage.read("tile/0/000.p/1") is storage.read("tile/0/000.p/2") is None
    assert (storage.read("tile/0/000"), storage.read("tile/0/001.p/1")) == (b"full", b"z")
    storage.write_new("tile/0/000.p/1", b"x")
    assert storage.read("tile/0/000.p/1") == b"x"


def test_discarding_follows_no_link(storage: PosixStorage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_bytes(b"x")
    storage.write_new("a", b"full")
    (root / "a.p").symlink_to(tmp_path / "outside")

    with pytest.raises(JournalError, match="symbolic link"):
        storage.discard_partials(["a"])

    assert below(tmp_path / "outside") == ["kept"]


def test_reading_only_makes_nothing(storage: PosixStorage, root: Path, tmp_path: Path) -> None:
    """A log somebody handed over is checked without a trace."""
    storage.write_new("a", b"x")
    (tmp_path / ".ledger.staging" / "lock").unlink()
    (tmp_path / ".ledger.staging").rmdir()

    reader = PosixStorage(root, read_only=True)

    assert (reader.read("a"), reader.read("b")) == (b"x", None)
    with pytest.raises(JournalError, match="read only"):
        reader.write_new("b", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger"]
    with pytest.raises(JournalError, match="cannot be opened"):
        PosixStorage(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    reader.close()


def test_a_place_that_cannot_be_opened_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file in the way, and staging on another file system, where no link leads."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(JournalError, match="cannot be opened"):
        PosixStorage(tmp_path / "file")
    with pytest.raises(JournalError, match="cannot be opened"):
        PosixStorage(tmp_path / "file" / "ledger")


class Elsewhere(PosixFiles):
    """As if staging lay on another file system."""

    def prepare(self, *, read_only: bool) -> None:
        super().prepare(read_only=read_only)
        raise OSError("its staging directory is on another file system")


def test_an_error_at_start_leaves_no_handle(root: Path) -> None:
    before = open_handles()

    with pytest.raises(JournalError, match="another file system"):
        PosixStorage(root, files=Elsewhere(root, root.with_name("staging")))

    assert open_handles() == before


def test_a_closed_storage_writes_nothing(storage: PosixStorage) -> None:
    storage.close()
    storage.close()

    with pytest.raises(JournalError, match="closed"):
        storage.write_new("a", b"x")
    with pytest.raises(JournalError):
        storage.read("a")
