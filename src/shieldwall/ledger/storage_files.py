# SPDX-License-Identifier: Apache-2.0
"""The file operations under `PosixStorage`: every path is walked part by part, and no symbolic link is followed.

Nothing is decided here. That they stand behind a seam lets a test pull the plug after each of them.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from shieldwall.core.errors import DataLocked

__all__ = ["Files", "PosixFiles"]

_SYNC_THREADS = 16
"""Files synced at a time. The file system's journal makes one commit for all of them: 400 tiles of 8 KiB on ext4 took
about 40 ms this way, and a second one after the other."""

_LOCK_WAIT_S = 10.0
_LOCK_NAME = "lock"
_BARE = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Files(Protocol):
    """The few file operations `PosixStorage` needs. Paths are relative to its root; "" is the root itself.

    Each raises OSError. Nothing is durable unless `sync` returned: of a file its content, of a directory its names.
    """

    def prepare(self, *, read_only: bool) -> None:
        """Open root and staging; make them, durable, where they are missing. To read only the root is needed."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep out other processes that write. Raises DataLocked where one takes too long."""

    def staged(self) -> list[str]:
        """Names of the files in staging."""

    def stage(self, name: str, data: bytes, mode: int) -> int:
        """Make a file in staging and give its handle."""

    def unstage(self, name: str) -> None:
        """Remove a file from staging if it is there."""

    def link(self, name: str, path: str) -> None:
        """Give a staged file its place. Raises FileExistsError."""

    def replace(self, name: str, path: str) -> None:
        """Move a staged file to its place, over what is there."""

    def make_dir(self, path: str, mode: int) -> None:
        """Make a directory unless it exists."""

    def remove_dir(self, path: str) -> None:
        """Remove a directory and the files in it, if it is there."""

    def open(self, path: str) -> int | None:
        """Open a file or directory for reading and syncing; None where there is none. Follows no symbolic link."""

    def read(self, handle: int, limit: int) -> bytes | None:
        """Read the file whole, or `limit` and some bytes where it is longer; None where it is a directory."""

    def sync(self, handles: Sequence[int]) -> None:
        """Return once all of them are durable."""

    def close(self, handle: int) -> None:
        """Give the handle back."""

    def end(self) -> None:
        """Let go of everything. May be called again."""


class PosixFiles:
    """The real files below a directory.

    Args:
        root: Holds the objects and nothing else. May be reached through symbolic links; below it none is followed.
        staging: Holds what is being written, and the lock; on the same file system.
    """

    def __init__(self, root: Path, staging: Path) -> None:
        self._paths = (root, staging)
        self._root = self._staging = self._lock = -1

    def prepare(self, *, read_only: bool) -> None:
        """Open them; make what is missing. Modes are set past the umask: a web server may serve the root."""
        root, staging = self._paths
        if not read_only:
            _make(root, 0o755)
            _make(staging, 0o700)
            self._staging = os.open(staging, _DIRECTORY)
            self._lock = os.open(_LOCK_NAME, os.O_RDWR | os.O_CREAT | _BARE, 0o600, dir_fd=self._staging)
        self._root = os.open(root, _DIRECTORY)
        if not read_only and os.fstat(self._root).st_dev != os.fstat(self._staging).st_dev:
            raise OSError("its staging directory is on another file system")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an advisory lock on a file in staging; it goes when the process goes."""
        end = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DataLocked("another process writes to the storage") from None
                time.sleep(0.005)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def staged(self) -> list[str]:
        """List them, the lock aside."""
        names = os.listdir(self._staging)  # noqa: PTH208  a handle, which pathlib does not take
        return [name for name in names if name != _LOCK_NAME]

    def stage(self, name: str, data: bytes, mode: int) -> int:
        """Write on until all of it is written."""
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BARE, 0o600, dir_fd=self._staging)
        try:
            os.fchmod(handle, mode)
            written = os.write(handle, data)
            while written < len(data):
                written += os.write(handle, data[written:])
        except OSError:
            os.close(handle)
            self.unstage(name)
            raise
        return handle

    def unstage(self, name: str) -> None:
        """Remove it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._staging)

    def link(self, name: str, path: str) -> None:
        """Make a hard link: unlike a rename it never replaces what is there, whoever put it there."""
        with self._parent(path) as (directory, last):
            os.link(name, last, src_dir_fd=self._staging, dst_dir_fd=directory, follow_symlinks=False)

    def replace(self, name: str, path: str) -> None:
        """Rename it."""
        with self._parent(path) as (directory, last):
            os.rename(name, last, src_dir_fd=self._staging, dst_dir_fd=directory)

    def make_dir(self, path: str, mode: int) -> None:
        """Make it, its mode set past the umask."""
        with self._parent(path) as (directory, last):
            try:
                os.mkdir(last, 0o700, dir_fd=directory)
            except FileExistsError:
                os.close(_step(last, directory))
                return
            handle = _step(last, directory)
            try:
                os.fchmod(handle, mode)
            finally:
                os.close(handle)

    def remove_dir(self, path: str) -> None:
        """Remove the files first."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (directory, last):
            handle = _step(last, directory)
            try:
                for name in os.listdir(handle):  # noqa: PTH208  a handle again
                    os.unlink(name, dir_fd=handle)
            finally:
                os.close(handle)
            os.rmdir(last, dir_fd=directory)

    def open(self, path: str) -> int | None:
        """Open each part below the one before, so that no part can lead elsewhere."""
        if not path:
            return os.dup(self._root)
        try:
            with self._parent(path) as (directory, last):
                # Without waiting: a named pipe would keep us until somebody writes to it.
                return os.open(last, os.O_RDONLY | os.O_NONBLOCK | _BARE, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(_IN_ITS_WAY) from None
            raise

    def read(self, handle: int, limit: int) -> bytes | None:
        """Read on until there is no more, or more than there may be."""
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            return None
        if not stat.S_ISREG(about.st_mode):
            raise OSError("not a regular file")
        size = about.st_size
        # One byte more than it should have tells that it ends there.
        parts = [os.read(handle, size + 1)] if size <= limit else []
        if parts and len(parts[0]) == size:
            return parts[0]
        while (total := sum(map(len, parts))) <= limit and (part := os.read(handle, limit + 1 - total)):
            parts.append(part)
        return b"".join(parts)

    def sync(self, handles: Sequence[int]) -> None:
        """Sync them side by side; all are tried before an error is raised."""
        if len(handles) == 1:
            os.fsync(handles[0])
        elif handles:
            with ThreadPoolExecutor(min(_SYNC_THREADS, len(handles)), "sync") as pool:
                for done in [pool.submit(os.fsync, handle) for handle in handles]:
                    done.result()

    def close(self, handle: int) -> None:
        """Close it."""
        os.close(handle)

    def end(self) -> None:
        """Let go of root, staging and lock."""
        handles, self._root, self._staging, self._lock = (self._root, self._staging, self._lock), -1, -1, -1
        for handle in handles:
            if handle >= 0:
                os.close(handle)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Give a handle of the directory a path lies in, and its last part."""
        *parts, last = path.split("/")
        handle = os.dup(self._root)
        try:
            for part in parts:
                below = _step(part, handle)
                os.close(handle)
                handle = below
            yield handle, last
        finally:
            os.close(handle)


_IN_ITS_WAY = "a symbolic link is in its way"


def _make(path: Path, mode: int) -> None:
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            # Another process began at the same moment; what it made must be a directory.
            if each.is_symlink() or not each.is_dir():
                raise
        if each == path:
            each.chmod(mode)
        _sync(each.parent)
    # Whoever made it may have been killed before its name was durable. A parent that may not be opened was not ours.
    with contextlib.suppress(PermissionError):
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, _DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step(part: str, directory: int) -> int:
    """Open a directory below another. A symbolic link is told from a file: for both the kernel says ENOTDIR."""
    try:
        return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(_IN_ITS_WAY) from None
        raise
