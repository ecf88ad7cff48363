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
    with contextlib.suppress(OSError, RuntimeError):
        path = _directory() / name
        # Without blocking: whatever stands there must not make anybody wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not (stat.S_ISREG(status.st_mode) and _is_ours(status) and _is_ours(path.parent.stat())):
                return None
            data = _read(descriptor)
        finally:
            os.close(descriptor)
        body = data[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() == data[:_DIGEST_BYTES]:
            return body
    return None


def _read(descriptor: int) -> bytes:
    parts, left = [], _MAX_BYTES
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def keep(name: str, data: bytes) -> None:
    """Keep data under a name, replacing what was there; where that is not possible, do nothing."""
    with contextlib.suppress(OSError, RuntimeError):
        directory = _directory()
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
