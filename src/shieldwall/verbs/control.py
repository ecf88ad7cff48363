# SPDX-License-Identifier: Apache-2.0
"""The control socket of a running node: `DATA/control.sock`, one JSON line in, one out, for the directory's owner only.

A verb that changes a data directory takes its lock when no node runs, and asks the node through this socket when one
does.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from shieldwall.core.errors import ConfigError, DataLocked, Error, InvalidInput
from shieldwall.node import Node

__all__ = ["ask", "listening"]

_LINE_BYTES = 64 << 10
_WAIT_S = 10.0
_ADDRESS_BYTES = 100
"""Linux takes 107 bytes, other systems 103."""


class _CreateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # A member and no tag: a decoder for one type alone takes an object without its tag.
    do: Literal["keys.create"]
    name: str
    role: str = "user"


@asynccontextmanager
async def listening(node: Node) -> AsyncIterator[None]:
    """Take commands while the context is open."""
    path = node.data.socket
    path.unlink(missing_ok=True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_WAIT_S):
                line = await reader.readline()
            writer.write(msgspec.json.encode(await _do(node, line)) + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            pass
        finally:
            writer.close()

    mask = os.umask(0o177)
    try:
        with _address(path) as address:
            server = await asyncio.start_unix_server(answer, address, limit=_LINE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"the control socket in {path.parent} cannot be made: {error.strerror or error}",
            hint="choose another directory with --data",
        ) from None
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The socket's path in a form that fits into a socket address, which on Linux is shorter than a path may be."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def _do(node: Node, line: bytes) -> dict[str, Any]:
    try:
        command = msgspec.json.decode(line, type=_CreateKey)
        return {"key": await node.create_key(command.name, command.role)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"error": "the node does not understand this command", "hint": "use the same version on both sides"}
    except Error as error:
        return {"error": str(error), "hint": error.hint}


def ask(path: Path, command: dict[str, str]) -> dict[str, Any]:
    """Send one command to the node that owns a data directory. Raises DataLocked when it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_WAIT_S)
        try:
            with _address(path) as address:
                connection.connect(address)
            connection.sendall(msgspec.json.encode(command) + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_LINE_BYTES)
        except OSError:
            raise DataLocked("the data directory is in use, but its node does not answer") from None
    answer = msgspec.json.decode(line) if line else {"error": "the node gave no answer"}
    if "error" in answer:
        raise InvalidInput(answer["error"], hint=answer.get("hint", ""))
    return dict(answer)
