# SPDX-License-Identifier: Apache-2.0
"""The seam between a handler and the HTTP server, so that the server can be replaced where measurement asks.

A handler reads the body once, sends a head and chunks, and is cancelled when the client leaves. Back-pressure: sending
returns only when the connection can take more. A handler that returns before the last chunk breaks the connection, so
that the client cannot take what it has for the whole.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from shieldwall.core.errors import InvalidInput, LimitExceeded

__all__ = ["AsgiConn", "Conn", "Headers"]

_LINGER_S = 5.0
_LINGER_BYTES = 64 << 20
"""How long, and how much, a client may go on sending a body that was refused already."""

Headers = list[tuple[bytes, bytes]]
_Message = MutableMapping[str, Any]


class Conn(Protocol):
    """One request and the way back to its client."""

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    """Lower-case names; of a repeated one the last."""
    started: bool
    """Whether a head was sent."""

    async def read_body(self, limit: int, timeout_s: float) -> bytes:
        """The whole body. Raises LimitExceeded past `limit` bytes, InvalidInput when it stalls or the client leaves."""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""

    async def send_head(self, status: int, headers: Headers) -> None:
        """The head of an answer whose chunks follow."""

    async def send_chunk(self, data: bytes, *, last: bool = False) -> None:
        """Some of the answer; waits while the client does not read."""


class AsgiConn:
    """`Conn` over the ASGI callables of uvicorn."""

    __slots__ = (
        "_receive",
        "_send",
        "_stalled",
        "_watch",
        "body_read",
        "gone",
        "headers",
        "method",
        "path",
        "query",
        "started",
        "write_timeout_s",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
        *,
        write_timeout_s: float = 120.0,
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False
        self.body_read = self.headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in self.headers
        """Whether the request was read to its end; if not, the connection cannot serve another."""
        self.gone = False
        """Whether the client left before it had its answer."""
        self.write_timeout_s = write_timeout_s
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._stalled = False

    async def read_body(self, limit: int, timeout_s: float) -> bytes:
        """The whole body, read while the client sends it; then the client is watched for leaving."""
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise LimitExceeded(
                f"the body has {int(declared)} bytes, the limit is {limit}",
                hint="send less, or raise gateway.max_body_bytes",
            )
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read(limit)
        except TimeoutError:
            self._stalled = True
            raise InvalidInput(f"the body did not arrive within {timeout_s:g} s") from None

    async def _read(self, limit: int) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message["body"]
            if len(body) > limit:
                raise LimitExceeded(
                    f"the body is over {limit} bytes", hint="send less, or raise gateway.max_body_bytes"
                )
            self.body_read = True
            return body
        parts: list[bytes] = []
        size = 0
        while message["type"] == "http.request":
            parts.append(message["body"])
            size += len(message["body"])
            if size > limit:
                raise LimitExceeded(
                    f"the body is over {limit} bytes", hint="send less, or raise gateway.max_body_bytes"
                )
            if not message.get("more_body"):
                self.body_read = True
                return b"".join(parts)
            message = await self._receive()
        self.gone = True
        raise InvalidInput("the client left before it had sent the body")

    def watch(self) -> None:
        """From now on, cancel the current task when the client leaves. Call after the body was read."""
        task = asyncio.current_task()
        if task is not None:
            self._watch = asyncio.get_running_loop().create_task(self._until_gone(task))

    async def _until_gone(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()

    def unwatch(self) -> None:
        """The answer is out, or nobody is left to have it."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer, its length stated."""
        await self.send_head(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send_chunk(body, last=True)

    async def send_early(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer to a client that may still be sending; then the connection closes.

        Closing while bytes arrive resets the connection, and the client loses the answer that would have told it why.
        So what still comes is read and thrown away, up to a stated time and size.
        """
        await self.send_head(status, [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")])
        await self.send_chunk(body)
        size = 0
        try:
            async with asyncio.timeout(_LINGER_S):
                while size < _LINGER_BYTES and not self._stalled:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            pass
        await self.send_chunk(b"", last=True)

    async def send_head(self, status: int, headers: Headers) -> None:
        """The head of an answer whose chunks follow."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_chunk(self, data: bytes, *, last: bool = False) -> None:
        """Some of the answer. Raises TimeoutError when the client does not read for `write_timeout_s`."""
        if last:
            self.unwatch()
        sending = self._send({"type": "http.response.body", "body": data, "more_body": not last})
        async with asyncio.timeout(self.write_timeout_s):
            await sending
