# SPDX-License-Identifier: Apache-2.0
"""The journal keeps what it promised, refuses what it cannot promise, and says which."""

import asyncio
import errno
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from shieldwall.core.errors import (
    ConfigError,
    InvalidInput,
    JournalCorrupt,
    JournalError,
    LimitExceeded,
    Overloaded,
)
from shieldwall.ledger import Journal, Settings
from shieldwall.ledger.journal import PosixFiles
from shieldwall.ledger.segment import FRAME_BYTES, HEAD_BYTES, frame_at, read_head

SMALL = Settings(segment_bytes=16_384)
WAIT_S = 20.0


class Watched(PosixFiles):
    """Real files that can be stopped or made to fail, and that remember what was asked of them."""

    def __init__(self) -> None:
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.syncs = 0
        self.writes: list[tuple[int, bytes]] = []
        self.fail_sync = self.fail_create = False

    def datasync(self, handle: int) -> None:  # type: ignore[override]  # a plain function there
        self.open_gate.wait(WAIT_S)
        self.syncs += 1
        if self.fail_sync:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(handle)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        self.writes.append((offset, data))
        super().pwrite(handle, data, offset)

    def create_filled(self, path: Path, start: bytes, size: int) -> None:
        if self.fail_create:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().create_filled(path, start, size)


@pytest.fixture
def watched() -> Iterator[Watched]:
    files = Watched()
    yield files
    files.open_gate.set()


def line(number: int, size: int = 40) -> bytes:
    return f"entry {number} ".encode().ljust(size, b".")


def fill(directory: Path, count: int, size: int = 1_000) -> None:
    """A journal of `count` entries, closed."""
    journal = Journal(directory, settings=SMALL)
    for promise in [journal.append(line(number, size), b"opening") for number in range(count)]:
        promise.result(WAIT_S)
    journal.close()


def segment(directory: Path, number: int = 1) -> Path:
    return directory / f"{number:08}.seg"


def frames(path: Path) -> list[tuple[int, int]]:
    """Offset and end of each entry in a segment."""
    data = path.read_bytes()
    seed = read_head(data[:HEAD_BYTES], number=int(path.stem), size=len(data)).seed
    found, offset = [], HEAD_BYTES
    while (frame := frame_at(data, offset, seed)) is not None and not frame.is_note:
        found.append((frame.offset, frame.end))
        offset = frame.end
    return found


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


@effort(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.binary(min_size=1, max_size=4096), st.binary(max_size=6000)), min_size=1, max_size=6),
        max_size=4,
    )
)
def test_what_goes_in_comes_out_after_any_number_of_reopenings(lives: list[list[tuple[bytes, bytes]]]) -> None:
    """Any bytes, in any groups, over any number of segments: the same entries and openings, in order."""
    with tempfile.TemporaryDirectory() as directory:
        for life in lives:
            journal = Journal(directory, settings=SMALL)
            for entry, opening in life:
                journal.append(entry, opening)
            journal.close()
        journal = Journal(directory, settings=SMALL)
        read = list(journal.entries())
        journal.close()

    expected = [pair for life in lives for pair in life]
    assert read == [(index, entry, opening) for index, (entry, opening) in enumerate(expected)]


def test_reopening_continues_the_index(tmp_path: Path) -> None:
    """The first entry of a second life gets the index after the last of the first."""
    fill(tmp_path, 30)

    journal = Journal(tmp_path, settings=SMALL)
    index = journal.append(b"later").result(WAIT_S)
    journal.close()

    assert index == 30
    assert len(journal) == journal.size == 31


def test_a_promise_can_be_awaited_by_many_tasks_in_a_loop(tmp_path: Path) -> None:
    """Each task gets the index of its own entry, also when it awaits long after the entry became durable."""

    async def appended(journal: Journal) -> list[int]:
        promises = [journal.append(line(number)) for number in range(50)]
        early = [await promise for promise in promises]
        return early + [await promise for promise in promises]

    journal = Journal(tmp_path)
    indexes = asyncio.run(appended(journal))
    journal.close()

    assert indexes == [*range(50), *range(50)]


def test_entries_that_wait_together_share_one_sync_and_one_call_into_the_loop(tmp_path: Path, watched: Watched) -> None:
    """Group commit: while one sync runs, everything else gathers into one group."""

    async def appended(journal: Journal) -> tuple[list[int], int]:
        loop = asyncio.get_running_loop()
        calls = []
        inner = loop.call_soon_threadsafe

        def counted(*args: Any, **options: Any) -> asyncio.Handle:
            calls.append(args)
            return inner(*args, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        watched.open_gate.clear()
        first = asyncio.ensure_future(_result(journal, 0))
        while len(watched.writes) == written:  # noqa: ASYNC110  the writer is a thread, it sets no event
            await asyncio.sleep(0.001)
        rest = [asyncio.ensure_future(_result(journal, number)) for number in range(1, 101)]
        await asyncio.sleep(0)
        watched.open_gate.set()
        return await asyncio.gather(first, *rest), len(calls)

    async def _result(journal: Journal, number: int) -> int:
        return await journal.append(line(number))

    journal = Journal(tmp_path, files=watched)
    journal._filler.join()  # type: ignore[union-attr]  # its writes would be counted
    written, syncs = len(watched.writes), watched.syncs
    indexes, calls = asyncio.run(appended(journal))
    synced = watched.syncs - syncs
    journal.close()

    assert indexes == list(range(101))
    assert synced == 2
    assert calls == 2


def test_a_cancelled_wait_disturbs_nobody_else(tmp_path: Path, watched: Watched) -> None:
    """The entry of a client that went away is recorded all the same, and its neighbours get their index."""

    async def appended(journal: Journal) -> tuple[bool, int]:
        watched.open_gate.clear()
        gone = asyncio.ensure_future(_wait(journal, b"gone"))
        stays = asyncio.ensure_future(_wait(journal, b"stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        watched.open_gate.set()
        return gone.cancelled(), await stays

    async def _wait(journal: Journal, entry: bytes) -> int:
        return await journal.append(entry)

    journal = Journal(tmp_path, files=watched)
    outcome = asyncio.run(appended(journal))
    journal.close()

    assert outcome == (True, 1)
    assert [entry for _, entry, _ in journal.entries()] == [b"gone", b"stays"]


def test_a_thread_that_waits_in_vain_can_wait_again(tmp_path: Path, watched: Watched) -> None:
    """A timeout says that the outcome is open, and takes nothing back."""
    journal = Journal(tmp_path, files=watched)
    watched.open_gate.clear()
    promise = journal.append(b"slow")

    with pytest.raises(TimeoutError):
        promise.result(0.01)
    watched.open_gate.set()
    assert promise.result(WAIT_S) == 0
    journal.close()


def test_nothing_counts_before_its_sync_returned(tmp_path: Path, watched: Watched) -> None:
    """While the sync runs, the entry is neither counted nor read back."""
    journal = Journal(tmp_path, files=watched)
    watched.open_gate.clear()
    promise = journal.append(b"on its way")
    before = (len(journal), list(journal.entries()))
    watched.open_gate.set()
    promise.result(WAIT_S)

    assert before == (0, [])
    assert len(journal) == 1
    journal.close()


def test_a_group_may_span_segments(tmp_path: Path, watched: Watched) -> None:
    """One group larger than a segment is written over several, and all of it reads back."""
    journal = Journal(tmp_path, settings=SMALL, files=watched)
    watched.open_gate.clear()
    promises = [journal.append(line(number, 3_000)) for number in range(20)]
    watched.open_gate.set()
    indexes = [promise.result(WAIT_S) for promise in promises]
    journal.close()

    assert indexes == list(range(20))
    assert [entry for _, entry, _ in journal.entries()] == [line(number, 3_000) for number in range(20)]
    assert segment(tmp_path, 4).exists()


@pytest.mark.parametrize("start", [0, 1, 13, 29, 30, 99, -5])
def test_reading_starts_where_it_is_told(tmp_path: Path, start: int) -> None:
    """`entries(start)` begins at that index, in any segment, and is empty beyond the end."""
    fill(tmp_path, 30)
    journal = Journal(tmp_path, settings=SMALL)

    read = [index for index, _, _ in journal.entries(start)]

    assert read == list(range(max(start, 0), 30))
    journal.close()


def test_a_reader_that_follows_reads_little_again(tmp_path: Path) -> None:
    """Reading from far inside a large segment starts at a mark near it, and finds the right entry."""
    journal = Journal(tmp_path, settings=Settings(segment_bytes=8 << 20))
    for begin in range(0, 1_500, 100):
        promises = [journal.append(line(number, 3_000)) for number in range(begin, begin + 100)]
        promises[-1].result(WAIT_S)

    read = next(journal.entries(1_400))

    assert read == (1_400, line(1_400, 3_000), b"")
    assert len(journal._marks) > 2
    journal.close()


def test_too_many_waiting_entries_are_refused(tmp_path: Path, watched: Watched) -> None:
    """Over `max_pending` nothing is taken; what was taken is kept, and room comes back."""
    journal = Journal(tmp_path, settings=Settings(segment_bytes=16_384, max_pending=5), files=watched)
    watched.open_gate.clear()
    promises = [journal.append(line(number)) for number in range(5)]

    with pytest.raises(Overloaded):
        journal.append(b"one too many")
    watched.open_gate.set()
    assert [promise.result(WAIT_S) for promise in promises] == list(range(5))
    assert journal.append(b"room again").result(WAIT_S) == 5
    journal.close()


def test_too_many_waiting_bytes_are_refused(tmp_path: Path, watched: Watched) -> None:
    """Long openings are bounded by their bytes, not only by their number."""
    journal = Journal(tmp_path, settings=Settings(segment_bytes=1 << 20, max_pending_bytes=10_000), files=watched)
    watched.open_gate.clear()
    first = journal.append(b"waiting", bytes(9_000))

    with pytest.raises(Overloaded):
        journal.append(b"too much", bytes(9_000))
    watched.open_gate.set()
    assert first.result(WAIT_S) == 0
    assert journal.append(b"room again", bytes(9_000)).result(WAIT_S) == 1
    journal.close()


def test_after_a_failed_sync_nothing_is_promised(tmp_path: Path, watched: Watched) -> None:
    """Everything pending and everything later fails, and the sync is never tried again."""
    journal = Journal(tmp_path, files=watched)
    journal.append(b"fine").result(WAIT_S)
    watched.open_gate.clear()
    watched.fail_sync = True
    syncs = watched.syncs
    pending = [journal.append(line(number)) for number in range(3)]
    watched.open_gate.set()

    for promise in pending:
        with pytest.raises(JournalError, match="Input/output error"):
            promise.result(WAIT_S)
    with pytest.raises(JournalError):
        journal.append(b"later")
    journal.close()
    assert watched.syncs == syncs + 1
    assert journal.trouble
    assert [entry for _, entry, _ in journal.entries()] == [b"fine"]


def test_a_task_that_waits_for_a_failing_disk_is_told(tmp_path: Path, watched: Watched) -> None:
    """The awaiting side gets a JournalError too, not a wait without end."""

    async def appended() -> int:
        return await journal.append(b"lost")

    journal = Journal(tmp_path, files=watched)
    watched.fail_sync = True

    with pytest.raises(JournalError):
        asyncio.run(asyncio.wait_for(appended(), WAIT_S))
    journal.close()


def test_what_a_failed_sync_left_in_the_cache_is_written_again(tmp_path: Path, watched: Watched) -> None:
    """At the next start entries nobody vouches for are written before they are synced: the kernel thinks them clean."""
    journal = Journal(tmp_path, files=watched)
    journal.append(b"fine").result(WAIT_S)
    watched.fail_sync = True
    with pytest.raises(JournalError):
        journal.append(b"in the cache alone").result(WAIT_S)
    journal.close()
    again = Watched()
    journal = Journal(tmp_path, files=again)

    read = [entry for _, entry, _ in journal.entries()]
    journal.close()

    assert read == [b"fine", b"in the cache alone"]
    assert b"in the cache alone" in again.writes[0][1]


def test_a_full_disk_is_told_before_it_hurts(tmp_path: Path, watched: Watched) -> None:
    """With no room for the next segment the current one is used up; then the journal stops, and keeps what it has."""
    journal = Journal(tmp_path, settings=SMALL, files=watched)
    journal._filler.join()  # type: ignore[union-attr]
    watched.fail_create = True
    taken = 0
    with pytest.raises(JournalError, match="No space left"):  # noqa: PT012  how far it gets is the question
        for taken in range(60):
            journal.append(line(taken, 1_000)).result(WAIT_S)
            if taken == 18:
                journal._filler.join()  # type: ignore[union-attr]
                warned = journal.trouble
    journal.close()

    assert "no room for the next segment" in warned
    reopened = Journal(tmp_path, settings=SMALL)
    assert [entry for _, entry, _ in reopened.entries()] == [line(number, 1_000) for number in range(taken)]
    assert taken == 30
    reopened.close()


def test_room_that_comes_back_in_time_is_used(tmp_path: Path, watched: Watched) -> None:
    """A failure to prepare is tried once more when the segment is needed."""
    journal = Journal(tmp_path, settings=SMALL, files=watched)
    journal._filler.join()  # type: ignore[union-attr]
    watched.fail_create = True
    for number in range(20):
        journal.append(line(number, 1_000)).result(WAIT_S)
    journal._filler.join()  # type: ignore[union-attr]
    warned = journal.trouble
    watched.fail_create = False
    for number in range(20, 40):
        journal.append(line(number, 1_000)).result(WAIT_S)
    journal.close()

    assert warned
    assert journal.trouble == ""
    assert len(journal) == 40


@pytest.mark.parametrize("which", [0, 7, 14, 29])
@pytest.mark.parametrize("part", [0, 4, 8, 16, 24, FRAME_BYTES, -1])
def test_damage_to_an_acknowledged_entry_is_refused(tmp_path: Path, which: int, part: int) -> None:
    """One flipped bit anywhere in an entry, the last one included: the journal does not open, and says where."""
    fill(tmp_path, 30)
    number, at = divmod(which, 15)
    offset, end = frames(segment(tmp_path, number + 1))[at]
    flip(segment(tmp_path, number + 1), end - 1 if part < 0 else offset + part)

    with pytest.raises(JournalCorrupt, match=f"entry {which} .*segment {number + 1:08}, offset {offset}$"):
        Journal(tmp_path, settings=SMALL)


def test_damage_to_the_last_entry_is_refused_after_a_kill_too(tmp_path: Path) -> None:
    """An idle journal notes what is durable, so the last entry is vouched for although nothing followed it."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    journal = Journal(live, settings=SMALL)
    journal.append(b"the last one").result(WAIT_S)
    until = time.monotonic() + WAIT_S
    while b"\xf5SWE" not in (data := segment(live).read_bytes())[HEAD_BYTES + FRAME_BYTES + 12 :]:
        assert time.monotonic() < until
        time.sleep(0.005)
    copy.mkdir()
    segment(copy).write_bytes(data)
    journal.close()
    flip(segment(copy), HEAD_BYTES + FRAME_BYTES)

    with pytest.raises(JournalCorrupt, match="entry 0"):
        Journal(copy, settings=SMALL)


def test_damage_found_while_reading_is_refused(tmp_path: Path) -> None:
    """An entry that goes bad under a running journal is not handed out."""
    fill(tmp_path, 5)
    journal = Journal(tmp_path, settings=SMALL)
    flip(segment(tmp_path), frames(segment(tmp_path))[2][0] + 40)

    with pytest.raises(JournalCorrupt, match="entry 2"):
        list(journal.entries())
    journal.close()


def test_a_torn_tail_is_cut_and_zeroed(tmp_path: Path) -> None:
    """Half an entry after the last durable one is taken for what it is, and leaves no trace to come back."""
    fill(tmp_path, 3)
    path = segment(tmp_path)
    begin, end = frames(path)[-1]
    data = bytearray(path.read_bytes())
    # The last entry loses its middle and its note, as if neither had reached the disk; a piece further on did.
    data[begin + 100 : end + FRAME_BYTES] = bytes(end + FRAME_BYTES - begin - 100)
    data[end + 500 : end + 600] = b"x" * 100
    path.write_bytes(data)

    journal = Journal(tmp_path, settings=SMALL)
    count = len(journal)
    tail = path.read_bytes()[begin:]
    journal.close()

    assert count == 2
    assert tail.strip(b"\0") in (b"", tail[:FRAME_BYTES].strip(b"\0"))


def test_frames_of_another_journal_do_not_pass(tmp_path: Path) -> None:
    """Whole frames with the right index, left by another file, are not entries here."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    fill(ours, 2)
    fill(theirs, 4)
    foreign = segment(theirs).read_bytes()
    begin, _ = frames(segment(theirs))[2]
    data = bytearray(segment(ours).read_bytes())
    data[begin:] = foreign[begin:]
    segment(ours).write_bytes(data)

    journal = Journal(ours, settings=SMALL)
    count = len(journal)
    journal.close()

    assert count == 2


def test_a_missing_or_damaged_segment_is_refused(tmp_path: Path) -> None:
    """A hole in the row, a damaged head and a file of the wrong length are each named."""
    for name in ("hole", "head", "length"):
        fill(tmp_path / name, 40)
    segment(tmp_path / "hole", 2).unlink()
    flip(segment(tmp_path / "head", 2), 20)
    os.truncate(segment(tmp_path / "length", 2), 12_000)

    for name in ("hole", "head", "length"):
        with pytest.raises(JournalCorrupt, match="segment 00000002"):
            Journal(tmp_path / name, settings=SMALL)


def test_an_unfinished_segment_is_forgotten(tmp_path: Path) -> None:
    """What a stop left of the filling ahead is removed."""
    fill(tmp_path, 2)
    (tmp_path / "00000003.tmp").write_bytes(b"half")

    Journal(tmp_path, settings=SMALL).close()

    assert not (tmp_path / "00000003.tmp").exists()


def test_another_segment_size_is_taken_up_at_the_next_segment(tmp_path: Path) -> None:
    """A spare segment of the old size goes; entries too long for it find their place."""
    fill(tmp_path, 2)
    journal = Journal(tmp_path, settings=Settings(segment_bytes=100_000))
    index = journal.append(b"long", bytes(50_000)).result(WAIT_S)
    journal.close()

    assert index == 2
    assert segment(tmp_path, 2).stat().st_size == 100_000
    assert [len(opening) for _, _, opening in journal.entries()] == [7, 7, 50_000]


def test_closing_waits_for_what_was_taken_and_may_be_repeated(tmp_path: Path, watched: Watched) -> None:
    """No entry is lost by closing; afterwards none is taken."""
    journal = Journal(tmp_path, files=watched)
    watched.open_gate.clear()
    promises = [journal.append(line(number)) for number in range(10)]
    threading.Timer(0.02, watched.open_gate.set).start()
    journal.close()
    journal.close()

    assert [promise.result(0) for promise in promises] == list(range(10))
    with pytest.raises(JournalError, match="closed"):
        journal.append(b"late")


def test_what_does_not_fit_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    """An empty entry, one over 4 KiB and an opening larger than a segment raise; the next entry is taken."""
    journal = Journal(tmp_path, settings=SMALL)

    with pytest.raises(InvalidInput):
        journal.append(b"")
    with pytest.raises(LimitExceeded):
        journal.append(bytes(4_097))
    with pytest.raises(LimitExceeded):
        journal.append(b"x", bytes(16_384))
    assert journal.append(b"x", bytes(16_384 - HEAD_BYTES - 2 * FRAME_BYTES - 1)).result(WAIT_S) == 0
    journal.close()


def test_only_the_owner_can_read_the_openings(tmp_path: Path) -> None:
    """Directory and segments are closed to everyone else."""
    fill(tmp_path / "journal", 1)

    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    assert stat.S_IMODE(segment(tmp_path / "journal").stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_used_is_a_journal_error(tmp_path: Path) -> None:
    """What the system says about the directory becomes our error."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(JournalError):
        Journal(tmp_path / "file" / "journal")


def test_settings_that_make_no_journal_are_refused() -> None:
    """A segment too small for the greatest entry, or a queue of none."""
    with pytest.raises(ConfigError):
        Settings(segment_bytes=4_096)
    with pytest.raises(ConfigError):
        Settings(max_pending=0)


def test_many_threads_append_without_loss(tmp_path: Path) -> None:
    """Indexes are handed out once each, and each entry stands at the index its thread was told."""
    journal = Journal(tmp_path, settings=SMALL)
    told: dict[int, bytes] = {}

    def work(worker: int) -> None:
        for number in range(50):
            entry = f"{worker}:{number}".encode()
            told[journal.append(entry).result(WAIT_S)] = entry

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()

    assert {index: entry for index, entry, _ in journal.entries()} == told
    assert len(told) == 300
    shutil.rmtree(tmp_path)
