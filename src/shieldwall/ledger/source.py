# SPDX-License-Identifier: Apache-2.0
"""Where a verifier reads a log from: a directory, or the URL the log is served at. Never more than a bundle at a time.

Both give the bytes at a path, or None where there is nothing: what that means is for the verifier to say.
"""

import os
import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shieldwall.core.errors import Forbidden, JournalError, LimitExceeded, Unauthorized, UpstreamError
from shieldwall.ledger.caller import Caller
from shieldwall.ledger.tiles import MAX_BUNDLE_BYTES, parse_path

__all__ = ["CHECKPOINT", "Directory", "Read", "Url"]

Read = Callable[[str], bytes | None]
"""Gives the bytes at a path of a log, or None; `Directory.read` and `Url.read` are such."""

CHECKPOINT: Final = "checkpoint"

_TIMEOUT_S = 30.0


class Directory:
    """A log in a directory, laid out as it is served: `checkpoint` and `tile/`. Safe from any thread."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def read(self, path: str) -> bytes | None:
        """Give the file at the path of a tile, a bundle or the checkpoint.

        Raises:
            InvalidInput: It is no such path; LimitExceeded where the file is over the greatest bundle.
            JournalError: The disk refuses.
        """
        _check(path)
        try:
            # Without waiting: a named pipe would keep us until somebody writes to it.
            handle = os.open(self._path / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise JournalError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            return None
        with os.fdopen(handle, "rb") as file:
            try:
                data = file.read(MAX_BUNDLE_BYTES + 1)
            except OSError as error:
                raise JournalError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BUNDLE_BYTES:
            raise LimitExceeded(f"{path} is over {MAX_BUNDLE_BYTES} bytes")
        return data


class Url:
    """A log at the URL it is served at. Not safe between threads.

    Args:
        url: What `checkpoint` and `tile/` stand below; https, or plain http on this machine.
        headers: Sent along, such as an auditor's key.
        timeout_s: Greatest duration of one request, seconds.
        tls: Whom to trust; by default what this machine trusts.

    Raises:
        ConfigError: The URL is none, or is neither https nor of this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._caller = Caller(url, timeout_s=timeout_s, max_bytes=MAX_BUNDLE_BYTES, headers=headers, tls=tls)

    def read(self, path: str) -> bytes | None:
        """Fetch a tile, a bundle or the checkpoint; None where the log says that it is not there.

        Raises:
            InvalidInput: It is no such path.
            Unauthorized, Forbidden: The log wants a key, or another one: entry bundles are for auditors.
            UpstreamError: The log is not reached, or answers otherwise.
        """
        _check(path)
        reply = self._caller.get(path)
        if reply.status == 200:
            return reply.body
        if reply.status in {404, 410}:
            return None
        if reply.status == 401:
            raise Unauthorized(f"the log gives {path} to nobody without a key", hint="ask it for an auditor's key")
        if reply.status == 403:
            raise Forbidden(f"the log does not give {path} to this key", hint="ask it for an auditor's key")
        raise UpstreamError(f"the log answered {reply.status} for {path}")

    def close(self) -> None:
        """Let go of the connection."""
        self._caller.close()


def _check(path: str) -> None:
    if path != CHECKPOINT:
        parse_path(path)
