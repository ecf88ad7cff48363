# SPDX-License-Identifier: Apache-2.0
"""Where every decision becomes durable before anything happens because of it.

Entries that wait are written as one group: one write and one fdatasync for all of them, by one thread. The files are
filled with zeros and synced ahead, so that the fdatasync changes no metadata. After the first failed write or sync the
journal takes nothing more: the kernel may have dropped the pages it could not write, and would answer a second sync
that all is well.

One process opens a directory at a time; the lock of the data directory sees to that, not this file.
"""

import asyncio
import bisect
import itertools
import os
import re
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shieldwall.core.entry import MAX_ENTRY_BYTES
from shieldwall.core.errors import (
    ConfigError,
    InvalidInput,
    JournalCorrupt,
    JournalError,
    LimitExceeded,
    Overloaded,
)
from shieldwall.ledger.segment import (
    FRAME_BYTES,
    HEAD_BYTES,
    Head,
    Survey,
    encode_frame,
    encode_head,
    frame_at,
    read_head,
    survey,
    unreadable,
    walk,
)

__all__ = ["Files", "Journal", "PosixFiles", "Promise", "Settings"]

_LEAST_SEGMENT_BYTES = 16_384
"""Room for the head and three of the greatest entries."""

_IDLE_S = 0.02
"""After this long without work the writer notes what is durable; under load the next frames say it."""

_MARK_EVERY_BYTES = 1 << 20
"""Distance of the places `entries` can start from; a reader that follows the tail reads at most this much again."""

_NAME = re.compile(r"[0-9]{8}\.seg")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the journal prepares and how much may wait."""

    segment_bytes: int = 16 << 20
    """Bytes of a segment, at least 16,384. 16 MiB hold about 14,000 entries of 1.2 KB with their openings, fill in 20
    milliseconds ahead of need, and waste little on a quiet node. Takes effect from the next segment on."""
    max_pending: int = 4096
    """Entries that may wait for the disk. A well disk at 0.2 ms a group never sees as many; one that stalls for a
    second under 2,000 requests per second, two entries each, reaches it, and then new requests are refused."""
    max_pending_bytes: int = 64 << 20
    """Bytes that may wait for the disk: openings can be long, and memory is shared with the streams."""

    def __post_init__(self) -> None:
        """Raise ConfigError where the figures make no journal."""
        if not _LEAST_SEGMENT_BYTES <= self.segment_bytes <= 1 << 30:
            raise ConfigError("ledger.segment_bytes is not between 16,384 and 2^30")
        if self.max_pending < 1 or self.max_pending_bytes < 1:
            raise ConfigError("ledger.max_pending and ledger.max_pending_bytes start at 1")


class Files(Protocol):
    """The few file operations the journal needs. Each raises OSError; nothing is durable unless it says so."""

    def prepare(self, directory: Path) -> None:
        """Make the directory, durable, unless it exists."""

    def names(self, directory: Path) -> list[str]:
        """Names of the files in it."""

    def create_filled(self, path: Path, start: bytes, size: int) -> None:
        """Make a file of `size` bytes, `start` and then zeros, written out and synced; its name is not durable yet."""

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name; durable after `sync_dir`."""

    def remove(self, path: Path) -> None:
        """Remove a name; durable after `sync_dir`."""

    def sync_dir(self, directory: Path) -> None:
        """Make the names in a directory durable."""

    def open(self, path: Path) -> int:
        """Open a file for reading and writing in place."""

    def size(self, handle: int) -> int:
        """Bytes of the file."""

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Read that many bytes, fewer only at the end of the file."""

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """Write all the bytes in place."""

    def datasync(self, handle: int) -> None:
        """Return once everything written to the file is durable."""

    def close(self, handle: int) -> None:
        """Give the handle back."""


class PosixFiles:
    """The real files. Readable by their owner alone: openings hold what entries hide."""

    def prepare(self, directory: Path) -> None:
        """Make the directory and what is missing above it."""
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sync_dir(directory.parent)

    def names(self, directory: Path) -> list[str]:
        """List them."""
        return [path.name for path in directory.iterdir()]

    def create_filled(self, path: Path, start: bytes, size: int) -> None:
        """Write real zeros: after fallocate alone, the first write to a block would change metadata."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.pwrite(handle, start, 0)
            zeros = bytes(1 << 20)
            for offset in range(len(start), size, len(zeros)):
                self.pwrite(handle, zeros[: size - offset], offset)
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, path: Path, to: Path) -> None:
        """Rename within the directory."""
        path.rename(to)

    def remove(self, path: Path) -> None:
        """Remove it if it is there."""
        path.unlink(missing_ok=True)

    def sync_dir(self, directory: Path) -> None:
        """Sync the directory itself."""
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def open(self, path: Path) -> int:
        """Open it."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def size(self, handle: int) -> int:
        """Ask the file."""
        return os.fstat(handle).st_size

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Read on until there is enough or no more."""
        parts = []
        while size > 0 and (part := os.pread(handle, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """Write on until all of it is written."""
        written = os.pwrite(handle, data, offset)
        while written < len(data):
            written += os.pwrite(handle, data[written:], offset + written)

    # Where there is no fdatasync (macOS), fsync does more and costs more.
    datasync = staticmethod(getattr(os, "fdatasync", os.fsync))
    close = staticmethod(os.close)


_DEFAULTS = Settings()
_POSIX = PosixFiles()


class _Group:
    """Entries that become durable together, and who waits for them."""

    __slots__ = ("bytes", "failure", "first", "items", "settled", "sleepers", "waiters")

    def __init__(self, first: int) -> None:
        self.first = first
        self.items: list[tuple[bytes, bytes]] = []
        self.bytes = 0
        self.settled = False
        self.failure = ""
        self.waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self.sleepers: list[threading.Lock] = []


class Promise:
    """Index of an appended entry, once it is durable (`core.ports.Recorded`). Costs nothing while nobody waits."""

    __slots__ = ("_group", "_index", "_lock")

    def __init__(self, lock: threading.Lock, group: _Group, index: int) -> None:
        """Made by `Journal.append` alone."""
        self._lock = lock
        self._group = group
        self._index = index

    def __await__(self) -> Generator[Any, None, int]:
        """Wait in a loop. Cancelling the wait does not take the entry back. Raises JournalError."""
        group = self._group
        if not group.settled:
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            with self._lock:
                waits = not group.settled
                if waits:
                    group.waiters.setdefault(loop, []).append(waiter)
            if waits:
                yield from waiter
        return self._outcome()

    def result(self, timeout: float | None = None) -> int:
        """Wait in a thread, `timeout` in seconds. Raises JournalError, or TimeoutError while the outcome is open."""
        group = self._group
        if not group.settled:
            sleeper = threading.Lock()
            sleeper.acquire()
            with self._lock:
                waits = not group.settled
                if waits:
                    group.sleepers.append(sleeper)
            if waits and not sleeper.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
                raise TimeoutError("the entry is not durable yet")
        return self._outcome()

    def _outcome(self) -> int:
        if self._group.failure:
            # A new one for each who waits: a raised exception collects the traceback of whom it passes.
            raise JournalError(self._group.failure)
        return self._index


class _Mark(msgspec.Struct, frozen=True, gc=False):
    """A place reading can start from."""

    index: int
    number: int
    offset: int


class Journal:
    """An append-only file of entries with a promise of durability for each (`core.ports.Journal`).

    Args:
        directory: Holds the segments and nothing else; made if it is missing.
        settings: How much to prepare and how much may wait.
        files: The file operations; another implementation lets a test pull the plug.

    Raises:
        JournalCorrupt: An acknowledged entry does not read back. All entries are read for this.
        JournalError: The disk refused to read, write or sync.
    """

    _written: int
    """Entries on the disk; the writer's own count."""
    _marks: list[_Mark]
    """Where reading can start: the first entry of each segment, and about one place per MiB. In order."""
    _end: _Mark
    """After the last entry whose promise was kept."""

    def __init__(self, directory: Path | str, *, settings: Settings = _DEFAULTS, files: Files = _POSIX) -> None:
        """Open the directory: read all entries, cut a torn tail, start the writer."""
        self._directory = Path(directory)
        self._settings = settings
        self._files = files
        self._lock = threading.Lock()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._idle = self._closing = self._noted = False
        self._failure = self._filling_failure = ""
        self._filler: threading.Thread | None = None
        self._handle = -1
        try:
            self._open()
        except (OSError, JournalError) as error:
            self._release_handle()
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"the journal cannot be opened: {_reason(error)}") from error
        self._next = self._written
        self._pending_bytes = 0
        self._group = _Group(self._next)
        self._writer = threading.Thread(target=self._run, name="journal", daemon=True)
        self._writer.start()

    def append(self, entry: bytes, opening: bytes = b"") -> Promise:
        """Take an entry and return at once. Safe from any thread.

        Args:
            entry: 1 to 4096 bytes, the leaf of the log.
            opening: What discloses its fields; kept beside it.

        Raises:
            Overloaded: Too much waits; nothing was written.
            JournalError: The disk failed earlier, or the journal is closed; nothing was written.
            InvalidInput: The entry is empty; LimitExceeded where entry or opening is too long.
        """
        size = FRAME_BYTES + len(entry) + len(opening)
        if not entry:
            raise InvalidInput("an entry is empty")
        if len(entry) > MAX_ENTRY_BYTES or size > self._settings.segment_bytes - HEAD_BYTES - FRAME_BYTES:
            raise LimitExceeded("an entry or its opening is too long for the journal")
        with self._lock:
            if self._failure or self._closing:
                raise JournalError(self._failure or "the journal is closed")
            waiting = self._next - self._end.index
            # One that is alone is always taken, however long it is.
            if waiting >= self._settings.max_pending or (
                waiting and self._pending_bytes + size > self._settings.max_pending_bytes
            ):
                raise Overloaded(f"{waiting} entries wait for the disk")
            group, index = self._group, self._next
            group.items.append((entry, opening))
            group.bytes += size
            self._next = index + 1
            self._pending_bytes += size
            wakes, self._idle = self._idle, False
        if wakes:
            self._wake.release()
        return Promise(self._lock, group, index)

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes, bytes]]:
        """Read back what was durable at the time of the call: index, entry, opening, from `start` on.

        Raises:
            JournalCorrupt: An entry does not read back.
            JournalError: The disk refused to read.
        """
        start = max(start, 0)
        with self._lock:
            end = self._end
            begin = bisect.bisect_right(self._marks, start, key=_index) - 1
            marks = self._marks[begin : bisect.bisect_left(self._marks, end.index, key=_index)]
        return self._read(start, [*marks, end])

    def __len__(self) -> int:
        """Give the number of durable entries."""
        return self._end.index

    @property
    def size(self) -> int:
        """Number of durable entries, the size of the log's tree."""
        return self._end.index

    @property
    def trouble(self) -> str:
        """What is wrong, for the health page; empty when all is well.

        A failure to prepare the next segment shows here before the journal needs that segment.
        """
        return self._failure or self._filling_failure

    def close(self) -> None:
        """Wait until everything that was taken is durable, then let go of the files. May be called again."""
        with self._lock:
            self._closing = True
            wakes, self._idle = self._idle, False
        if wakes:
            self._wake.release()
        self._writer.join()
        if self._filler is not None:
            self._filler.join()

    # What follows up to `_release_handle` runs in the writer's thread once it has started.

    def _run(self) -> None:
        group: _Group | None = None
        try:
            while (group := self._take()) is not None:
                self._write(group)
                self._settle(group)
            self._note()
            self._files.datasync(self._handle)
        except BaseException as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            self._poison(error, group)
        finally:
            self._release_handle()

    def _take(self) -> _Group | None:
        """Wait for work; None when the journal is closing and nothing waits."""
        while True:
            with self._lock:
                group = self._group
                if group.items:
                    self._group = _Group(self._next)
                    return group
                if self._closing:
                    return None
                self._idle = True
            if self._wake.acquire(timeout=-1 if self._noted else _IDLE_S):
                continue
            with self._lock:
                woken = not self._idle
                self._idle = False
            if woken:
                self._wake.acquire()
            else:
                self._note()

    def _write(self, group: _Group) -> None:
        """Write a group and make it durable. One write and one sync for each segment it touches, usually one."""
        chunks: list[bytes] = []
        offset, index = self._offset, group.first
        for entry, opening in group.items:
            size = FRAME_BYTES + len(entry) + len(opening)
            # Room for a note stays free, so that the last entry of a segment has one after it too.
            if offset + size + FRAME_BYTES > self._head.size:
                self._flush(chunks, index)
                self._advance()
                chunks, offset = [], self._offset
            chunks.append(encode_frame(self._head.seed, index, self._written, entry, opening))
            offset, index = offset + size, index + 1
        self._flush(chunks, index)

    def _flush(self, chunks: list[bytes], index: int) -> None:
        if not chunks:
            return
        data = b"".join(chunks)
        self._files.pwrite(self._handle, data, self._offset)
        self._files.datasync(self._handle)
        if self._offset - self._marks[-1].offset >= _MARK_EVERY_BYTES:
            self._mark(self._offset)
        self._offset += len(data)
        self._written = index
        self._noted = False

    def _settle(self, group: _Group, failure: str = "") -> None:
        """Keep the promises of a group, with one call into each loop that waits."""
        with self._lock:
            group.failure = failure
            group.settled = True
            self._end = _Mark(self._written, self._head.number, self._offset)
            self._pending_bytes -= group.bytes
        for loop, waiters in group.waiters.items():
            try:
                loop.call_soon_threadsafe(_resolve, waiters)
            except RuntimeError:
                continue  # that loop is closed, and whoever waited in it is gone
        for sleeper in group.sleepers:
            sleeper.release()

    def _poison(self, error: BaseException, group: _Group | None) -> None:
        """Take no more: after a failed write or sync nobody knows what is on the disk."""
        failure = f"the journal failed: {_reason(error)}"
        with self._lock:
            self._failure = failure
            waiting = self._group
        if group is not None and not group.settled:
            self._settle(group, failure)
        self._settle(waiting, failure)

    def _note(self) -> None:
        """State after the last entry that all are durable, so that damage to the last ones shows at the next start.

        Not synced while the journal runs: the statement is true without, and the next group writes over it.
        """
        self._noted = True
        self._files.pwrite(self._handle, encode_frame(self._head.seed, self._written, self._written, b""), self._offset)

    def _advance(self) -> None:
        """Go on in the next segment, which the filler has made by now, or else is made here."""
        if self._filler is not None:
            self._filler.join()
        number = self._head.number + 1
        if self._ready != number:
            self._create(number)
        self._enter(number)
        self._mark(HEAD_BYTES)

    def _enter(self, number: int) -> None:
        """Make a segment the current one, and have the one after it filled meanwhile."""
        self._release_handle()
        self._handle = self._files.open(self._path(number))
        size = self._files.size(self._handle)
        self._head = read_head(self._files.read(self._handle, 0, HEAD_BYTES), number=number, size=size)
        self._offset = HEAD_BYTES
        if self._ready <= number:
            self._filler = threading.Thread(target=self._fill, args=(number + 1,), name="journal-fill", daemon=True)
            self._filler.start()

    def _mark(self, offset: int) -> None:
        with self._lock:
            self._marks.append(_Mark(self._written, self._head.number, offset))

    def _release_handle(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            self._files.close(handle)

    def _fill(self, number: int) -> None:
        """Prepare a segment in its own thread. A failure is no harm yet: the writer tries again when it needs it."""
        try:
            self._create(number)
        except OSError as error:
            self._filling_failure = f"no room for the next segment: {_reason(error)}"

    def _create(self, number: int) -> None:
        """Make an empty segment. It gets its name last, so that a segment is always whole."""
        path = self._path(number)
        temporary = path.with_suffix(".tmp")
        head = Head(number, self._settings.segment_bytes, os.urandom(16))
        try:
            self._files.create_filled(temporary, encode_head(head), head.size)
            self._files.rename(temporary, path)
            self._files.sync_dir(self._directory)
        except OSError:
            self._files.remove(temporary)
            raise
        self._ready = number
        self._filling_failure = ""

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08}.seg"

    # Opening: in the caller's thread, before the writer starts.

    def _open(self) -> None:
        self._files.prepare(self._directory)
        names = self._files.names(self._directory)
        for name in names:
            if name.endswith(".tmp"):
                self._files.remove(self._directory / name)
        numbers = sorted(int(name[:8]) for name in names if _NAME.fullmatch(name))
        for expected, number in enumerate(numbers, 1):
            if number != expected:
                raise JournalCorrupt(f"segment {expected:08} is missing, but {number:08} is there")
        self._ready = len(numbers)
        if not numbers:
            self._create(1)
        # A process that was killed between rename and sync leaves a segment whose name a power cut would take away.
        self._files.sync_dir(self._directory)
        held = survey(self._whole(number) for number in range(1, self._ready + 1))
        self._drop_spare(held)
        self._secure(held)
        last = held.places[-1]
        self._written = held.count
        self._marks = [_Mark(place.first, place.head.number, HEAD_BYTES) for place in held.places]
        self._enter(last.head.number)
        self._offset = last.end
        self._end = _Mark(held.count, last.head.number, last.end)

    def _whole(self, number: int) -> bytes:
        handle = self._files.open(self._path(number))
        try:
            return self._files.read(handle, 0, self._files.size(handle))
        finally:
            self._files.close(handle)

    def _drop_spare(self, held: Survey) -> None:
        """Keep the segment filled ahead, and remove, last first, whatever else follows the last entry."""
        keep = 1 if held.spare and held.spare[0][1] and held.spare[0][0].size == self._settings.segment_bytes else 0
        for head, _ in reversed(held.spare[keep:]):
            self._files.remove(self._path(head.number))
            self._files.sync_dir(self._directory)
        self._ready = held.places[-1].head.number + keep

    def _secure(self, held: Survey) -> None:
        """Make what was read back durable, and what was cut gone, before anything is promised on top of it.

        Entries that no later frame calls durable may have been read from the page cache alone: after a sync that failed
        the kernel holds them as clean and would not write them again. So they are written once more.
        """
        for place in held.places:
            last, vouched = place is held.places[-1], place.first + place.count <= held.durable
            if vouched and not last:
                continue
            handle = self._files.open(self._path(place.head.number))
            try:
                data = self._files.read(handle, 0, place.end)
                begin = place.end
                for frame in () if vouched else walk(data, place.head.seed, place.first, HEAD_BYTES):
                    if frame.index >= held.durable:
                        begin = frame.offset
                        break
                kept = data[begin:]
                if last:
                    kept += bytes(max(place.dirty - place.end, 0))
                if kept:
                    self._files.pwrite(handle, kept, begin)
                self._files.datasync(handle)
            finally:
                self._files.close(handle)

    def _read(self, start: int, marks: list[_Mark]) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield entries from `start` on, one stretch between two marks after the other."""
        for mark, after in itertools.pairwise(marks):
            try:
                head, data = self._stretch(mark, after)
            except OSError as error:
                raise JournalError(f"the journal cannot be read: {_reason(error)}") from error
            offset = 0
            for index in range(mark.index, after.index):
                frame = frame_at(data, offset, head.seed)
                if frame is None or frame.index != index or frame.is_note:
                    raise unreadable(index, mark.number, mark.offset + offset)
                offset = frame.end
                if index >= start:
                    yield index, data[frame.entry_at : frame.opening_at], data[frame.opening_at : frame.end]

    def _stretch(self, mark: _Mark, after: _Mark) -> tuple[Head, bytes]:
        """Head of a segment, and its bytes from a mark to the next, or to the end of the segment."""
        handle = self._files.open(self._path(mark.number))
        try:
            size = self._files.size(handle)
            head = read_head(self._files.read(handle, 0, HEAD_BYTES), number=mark.number, size=size)
            end = after.offset if after.number == mark.number else size
            return head, self._files.read(handle, mark.offset, end - mark.offset)
        finally:
            self._files.close(handle)


def _index(mark: _Mark) -> int:
    return mark.index


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    """Wake everyone of one group and loop, except who was cancelled meanwhile."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _reason(error: BaseException) -> str:
    """Say what the system said, without paths."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
