# SPDX-License-Identifier: Apache-2.0
"""Keeps what takes seconds to compute and can always be computed again, in the user's cache directory.

`$XDG_CACHE_HOME/shieldwall`, or `~/.cache/shieldwall`. What is kept is handed to native code, so it is read only where
nobody but this user could have written it, and only whole: each file begins with the SHA-256 of what follows. A cache
that cannot be used is no error; the work is done again.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["fetch", "keep"]

_DIGEST_BYTES = 32
_MAX_BYTES = 64 << 20
_MAX_FILES = 32
"""Older ones go when a new one comes: every change of a rule set leaves one behind."""


def fetch(name: str) -> bytes | None:
    """What was kept under a name; none where there is nothing, or nothing to be trusted."""
    path = _directory() / name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not (_is_ours(os.fstat(descriptor)) and _is_ours(path.parent.stat())):
            return None
        data = file.read(_MAX_BYTES)
    body = data[_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == data[:_DIGEST_BYTES] else None


def keep(name: str, data: bytes) -> None:
    """Keep data under a name, replacing what was there; where that is not possible, do nothing."""
    directory = _directory()
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(directory.stat()):
            return
        files = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_MAX_FILES - 1 :]:
            path.unlink(missing_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        Path(draft).replace(directory / name)


def _directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "shieldwall"  # noqa: PTH117  of a text, before it is a path


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user can have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
