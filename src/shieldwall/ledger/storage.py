# SPDX-License-Identifier: Apache-2.0
"""Where tiles lie: written once, never over other bytes, and durable when the call returns.

`Storage` is the port. `PosixStorage` is a directory: a file is written and synced in a staging directory beside it,
then linked to its place, so that a whole file or none is seen after a power cut at any moment. What has been linked is
durable once its directory was synced. Files of one batch are synced side by side, and each directory once.

After the first failed sync the storage writes nothing more: the kernel may have dropped what it could not write, and
would answer a second sync that all is well.
"""

import contextlib
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from shieldwall.core.errors import InvalidInput, JournalCorrupt, JournalError, LimitExceeded
from shieldwall.ledger.storage_files import Files, PosixFiles
from shieldwall.ledger.tiles import MAX_BUNDLE_BYTES

__all__ = ["MAX_OBJECT_BYTES", "PosixStorage", "Storage", "check_path"]

MAX_OBJECT_BYTES = MAX_BUNDLE_BYTES
"""Greatest object: a bundle of 256 entries of 65,535 bytes."""

_MAX_PATH_CHARS = 255
_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(?:/[a-z0-9][a-z0-9._-]{0,63}){0,15}", re.ASCII)

_OPEN_AT_ONCE = 128
"""Files of a batch that are open at a time; a process may often have 1,024 in all."""

_Item = TypeVar("_Item")


class Storage(Protocol):
    """Holds objects by path. Safe from any thread.

    Each method raises InvalidInput for a path that is none, LimitExceeded for an object over 16 MiB and 512 bytes, and
    JournalError where what lies below fails.
    """

    def read(self, path: str) -> bytes | None:
        """Give the whole object, or None where there is none. Never a part of one."""

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Write objects that never change; all are durable on return.

        An object that is there with the same bytes is left as it is. After an error some may be written, each whole.

        Raises:
            JournalCorrupt: Other bytes lie at a path. Nothing was written where that was so before the call.
        """

    def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Replace `old` (None: nothing there) by `new` as one step, durable on return; False where it is not `old`.

        After False, what `read` gives is durable. After an error, either may stand there.
        """


def check_path(path: str) -> str:
    """Give the path back where it is one: 1 to 16 parts of a-z, 0-9, `.`, `-` and `_`.

    A part starts with a letter or digit, so that none leads upwards. Upper case is left out: some file systems do
    not tell it from lower case.

    Raises:
        InvalidInput: It is none.
    """
    if len(path) > _MAX_PATH_CHARS or _PATH.fullmatch(path) is None:
        raise InvalidInput("this is not a path in the storage", hint="use lower case names, joined by single slashes")
    return path


class PosixStorage:
    """Objects as files below a directory (`Storage`). Several processes may share it; each waits while another writes.

    Args:
        directory: Holds the objects and nothing else; made if it is missing, readable by all.
        staging: Where files are written before they get their place; on the same file system, of this storage alone.
            By default `.<name>.staging` beside the directory. What a killed process left there is removed at start.
        private: Paths below which only the owner may read, such as `tile/entries`.
        read_only: Make nothing, hold no lock, refuse to write: for who checks somebody else's log.
        files: The file operations; another implementation lets a test pull the plug.

    Raises:
        JournalError: The directory cannot be opened or made.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        staging: Path | str | None = None,
        private: Iterable[str] = (),
        read_only: bool = False,
        files: Files | None = None,
    ) -> None:
        """Open the directory, clear staging, make durable what a killed process may have left undurable at the top."""
        root = Path(directory).resolve()
        beside = root.with_name(f".{root.name}.staging")
        self._files = files or PosixFiles(root, Path(staging or beside).absolute())
        self._private = tuple(check_path(path) for path in private)
        self._lock = threading.Lock()
        self._failure = "the storage was opened to be read only" if read_only else ""
        self._known = {""}
        try:
            self._files.prepare(read_only=read_only)
            if not read_only:
                with self._files.lock():
                    for name in self._files.staged():
                        self._files.unstage(name)
                self._sync_paths([""])
        except OSError as error:
            self.close()
            raise JournalError(f"the storage cannot be opened: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise

    def read(self, path: str) -> bytes | None:
        """Give the file, or None.

        What a process wrote that was killed since may not be durable yet, unless it lies at the top; writing the same
        again makes it so.
        """
        check_path(path)
        try:
            return self._read(path)
        except OSError as error:
            raise JournalError(f"{path} cannot be read: {_reason(error)}") from error

    def write_new(self, path: str, data: bytes) -> None:
        """Write one file; see `write_many`."""
        self.write_many({path: data})

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Write files that never change, durable on return; see `Storage`.

        Files that are there already with the same bytes are synced too: the process that wrote them may have been
        killed before it did.
        """
        for path, data in files.items():
            _check(path, data)
        with self._writing():
            found = {path: self._read(path) for path in files}
            for path, held in found.items():
                if held is not None and held != files[path]:
                    raise _conflict(path)
            directories = self._make_dirs({_parent(path) for path in files})
            with self._staged([(path, files[path]) for path, held in found.items() if held is None]) as names:
                self._sync_paths([path for path, held in found.items() if held is not None])
                for path, name in names.items():
                    self._link(name, path, files[path])
            self._sync_dirs(directories)

    def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Replace a file as one step; see `Storage`."""
        _check(path, new)
        with self._writing():
            parent = _parent(path)
            found = self._read(path)
            if found != old:
                if found is not None:
                    # A process may have been killed between its rename and its sync. Whoever reads what it wrote now
                    # builds on it, and a power cut must not take it back.
                    self._sync_dirs(self._make_dirs({parent}))
                return False
            directories = self._make_dirs({parent})
            won = True
            with self._staged([(path, new)]) as names:
                if old is not None:
                    self._files.replace(names[path], path)
                else:
                    try:
                        self._files.link(names[path], path)
                    except FileExistsError:
                        # Put there by who does not wait for the lock; even the same bytes are not ours.
                        won = False
            self._sync_dirs(directories)
            return won

    def discard_partials(self, paths: Iterable[str]) -> None:
        """Remove the directory `<path>.p` of each full tile or bundle that is there.

        Where the full one is missing nothing is removed. A power cut may bring some of them back.
        """
        checked = [check_path(path) for path in paths]
        with self._writing():
            for path in checked:
                if self._read(path) is not None:
                    self._files.remove_dir(f"{path}.p")
                    self._known.discard(f"{path}.p")

    @property
    def trouble(self) -> str:
        """Why nothing is written any more, for the health page; empty when all is well."""
        return self._failure

    def close(self) -> None:
        """Let go of the directory. May be called again; nothing else may be called after it."""
        with self._lock:
            self._failure = self._failure or "the storage is closed"
            self._files.end()

    def _read(self, path: str) -> bytes | None:
        handle = self._files.open(path)
        if handle is None:
            return None
        try:
            data = self._files.read(handle, MAX_OBJECT_BYTES)
        finally:
            self._files.close(handle)
        if data is not None and len(data) > MAX_OBJECT_BYTES:
            raise LimitExceeded(f"{path} is over {MAX_OBJECT_BYTES} bytes, so it was not written by this storage")
        return data

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only one that writes, here and in other processes."""
        with self._lock:
            if self._failure:
                raise JournalError(self._failure)
            try:
                with self._files.lock():
                    yield
            except NotADirectoryError as error:
                raise InvalidInput("a part of the path is a file in the storage") from error
            except OSError as error:
                # What was known of directories may be what is wrong: another process may have removed some.
                self._known = {""}
                raise JournalError(f"the storage cannot be written: {_reason(error)}", hint=_NEEDS) from error

    @contextlib.contextmanager
    def _staged(self, files: Sequence[tuple[str, bytes]]) -> Iterator[dict[str, str]]:
        """Give the names under which files lie in staging, their contents durable; what is left there is removed."""
        names: dict[str, str] = {}
        try:
            for some in _groups(files):
                handles: list[int] = []
                try:
                    for path, data in some:
                        names[path] = secrets.token_hex(8)
                        handles.append(self._files.stage(names[path], data, 0o600 if self._hides(path) else 0o644))
                    self._sync(handles)
                finally:
                    for handle in handles:
                        self._files.close(handle)
            yield names
        finally:
            for name in names.values():
                self._files.unstage(name)

    def _link(self, name: str, path: str, data: bytes) -> None:
        try:
            self._files.link(name, path)
        except FileExistsError:
            # Put there by who does not wait for the lock; the same bytes are as good as ours.
            if self._read(path) != data:
                raise _conflict(path) from None

    def _make_dirs(self, directories: Iterable[str]) -> set[str]:
        """Make directories and what is missing above them; give all that must be synced once files lie in them.

        Each is made sure of once per process: that it exists does not say that its name is durable.
        """
        dirty = set(directories)
        for directory in sorted(dirty):
            parts = directory.split("/") if directory else []
            for depth in range(1, len(parts) + 1):
                path = "/".join(parts[:depth])
                if path not in self._known:
                    self._files.make_dir(path, 0o700 if self._hides(path) else 0o755)
                    dirty |= {path, _parent(path)}
        return dirty

    def _sync_dirs(self, directories: set[str]) -> None:
        self._sync_paths(sorted(directories))
        if len(self._known) > 1 << 16:
            self._known = {""}
        self._known |= directories

    def _sync_paths(self, paths: Sequence[str]) -> None:
        for some in _groups(paths):
            handles: list[int] = []
            try:
                for path in some:
                    handle = self._files.open(path)
                    if handle is None:
                        raise FileNotFoundError(f"{path or 'the directory'} has gone")
                    handles.append(handle)
                self._sync(handles)
            finally:
                for handle in handles:
                    self._files.close(handle)

    def _sync(self, handles: Sequence[int]) -> None:
        try:
            self._files.sync(handles)
        except OSError as error:
            self._failure = f"the storage takes no more writes since a sync failed, mend the disk: {_reason(error)}"
            raise

    def _hides(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self._private)


_NEEDS = "it needs room, write access, and a file system with hard links"


def _check(path: str, data: bytes) -> None:
    check_path(path)
    if len(data) > MAX_OBJECT_BYTES:
        raise LimitExceeded(f"{path} is over {MAX_OBJECT_BYTES} bytes")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _groups(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[at : at + _OPEN_AT_ONCE] for at in range(0, len(items), _OPEN_AT_ONCE))


def _conflict(path: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"{path} already holds other bytes",
        hint="it was written by another log or is damaged: do not delete it, verify the log first",
    )


def _reason(error: OSError) -> str:
    """Say what the system said, without the paths of this machine."""
    return error.strerror or str(error)
