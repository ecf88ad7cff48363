# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections to upstreams: the parser of uvicorn's server turned round, and a pool that keeps them open.

A connection carries one exchange at a time. What arrives is held for the reader up to a bound, then the socket is read
no further, so a slow client slows its upstream. A connection serves again only when its answer was read to the end and
both sides keep it; a request is never sent twice, as whoever answers it may have begun the work.

Source: RFC 9112 (framing), RFC 9110 section 15.2 (interim answers). Why not a client library: one costs three times the
CPU of all judging, see docs/performance.md.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from shieldwall.core.errors import ConfigError, UpstreamError

__all__ = ["Address", "Headers", "Link", "Pool"]

_MAX_HEAD_BYTES = 64 << 10
"""Of an answer's status line and headers, and of whatever else stands between two pieces of its body, such as trailers;
providers' heads are about 2 KB."""
_HELD_BYTES = 8 << 10
"""Of an answer that nobody read yet, before the socket is left alone."""
_READ_BYTES = 16 << 10
"""Taken from a socket at once."""
_IDLE_S = 30.0
"""How long an unused connection is kept: many endpoints close theirs after a minute."""


class Address(NamedTuple):
    """Where an upstream listens, and what its paths begin with."""

    host: str
    port: int
    tls: bool
    base: bytes
    """Path before every request's own, without a slash at its end."""
    name: bytes
    """As the `Host` header has it."""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read a URL. Raises ConfigError."""
        error = ConfigError("an upstream's url is not an address", hint="such as https://api.example.org/v1")
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (
                (parts.hostname or "").encode("idna").decode()
                if not (parts.hostname or "").isascii()
                else parts.hostname
            )
        except (ValueError, UnicodeError):
            raise error from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
            raise error
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/")
        if not (path.isascii() and path.isprintable() and " " not in path and host.isprintable() and " " not in host):
            raise error
        shown = f"[{host}]" if ":" in host else host
        name = shown if port is None else f"{shown}:{port}"
        return cls(host, port or (443 if tls else 80), tls, path.encode(), name.encode())


class Headers(Mapping[str, str]):
    """Headers of an answer by name, case aside; a repeated one joined as RFC 9110 section 5.2 says."""

    __slots__ = ("_found",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._found: dict[bytes, bytes] = {}
        for name, value in raw:
            low = name.lower()
            self._found[low] = self._found[low] + b", " + value if low in self._found else value

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower().encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._found)

    def __len__(self) -> int:
        return len(self._found)


class Link(asyncio.BufferedProtocol):
    """One connection, one exchange at a time; the attributes are the answer's once `request` returned."""

    __slots__ = (
        "_chunks", "_done", "_failure", "_held", "_interim", "_loop", "_named", "_overhead", "_parser", "_paused",
        "_pool", "_reusable", "_transport", "_until_close", "_waiter", "headers", "raw_headers", "status",
    )  # fmt: skip

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reusable = True
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._held = self._overhead = self._named = 0
        self._paused = self._interim = self._until_close = self._done = False
        self._failure = ""
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.headers = Headers([])

    @property
    def is_open(self) -> bool:
        """Whether another exchange can begin."""
        return self._reusable and self._transport is not None and not self._transport.is_closing()

    async def request(self, data: list[bytes]) -> None:
        """Send a request, head and body; returns when the head of the answer is there. Raises UpstreamError."""
        self._reset()
        if self._transport is None:
            raise UpstreamError("the model's endpoint cannot be reached (no connection)")
        self._transport.writelines(data)
        while not self.status and not self._failure:
            await self._wait()
        if not self.status:
            raise UpstreamError(f"the model's endpoint cannot be reached ({self._failure})")

    async def read(self) -> bytes:
        """What arrived since the last call, empty at the end. Raises UpstreamError when the answer broke off."""
        while not self._chunks:
            if self._done:
                return b""
            if self._failure:
                raise UpstreamError(f"the model's endpoint broke off ({self._failure})")
            await self._wait()
        return self.taken()

    def taken(self) -> bytes:
        """What arrived and was not read yet, without waiting; empty where there is nothing."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._held = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def release(self) -> None:
        """The exchange is over: the connection goes back to the pool, or is closed when its answer was not read out."""
        # An endpoint may answer before it took the whole request; what is left of that would follow into the next.
        if self._done and not self._chunks and self.is_open and not self._unsent:
            self._pool.give_back(self)
        else:
            self.abort()
            self._pool.left(self)

    @property
    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def is_silent(self) -> bool:
        """Whether nothing arrived that the loop did not hand over yet: an answer nobody asked for, or the end."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """Close at once; an upstream in mid-answer is told by it."""
        self._reusable = False
        if not self._done:
            self._failure = self._failure or "closed by the gateway"
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self._done:
            self._failure = self._failure or reason
        self._reusable = False
        self._wake()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        # uvloop's transports have the methods but not the base class, so `isinstance` would say no.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes. An answer without a stated length is over by this, any other broke off."""
        if self._until_close and exc is None and self.status and not self._failure:
            self._done = True
        self._fail("connection closed" if exc is None else type(exc).__name__)
        self._pool.forget(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  the loop's signature
        """Where the next bytes go: small, as the loop would else take a quarter of a megabyte at once."""
        return self._pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes of the answer."""
        self._overhead += nbytes
        try:
            self._parser.feed_data(self._pool.buffer[:nbytes])
        except httptools.HttpParserUpgrade:
            self._fail("it changes the protocol")
            self.abort()
        except (httptools.HttpParserError, ValueError):
            self._fail("its answer is not HTTP")
            self.abort()
        else:
            if self._overhead > _MAX_HEAD_BYTES and not self._done:
                self._fail("its answer is all head and no body")
                self.abort()
        if self._held > _HELD_BYTES and not self._paused and self._transport is not None and not self._done:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """An answer begins; after a whole one there must be none."""
        if self._done:
            raise ValueError("an answer nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those of trailers are not the answer's."""
        if not self.status:
            self.raw_headers.append((name, value))
            self._named += len(name) + len(value)
            if self._named > _MAX_HEAD_BYTES:
                raise ValueError("the head of an answer is too long")

    def on_headers_complete(self) -> None:
        """The head is there; an interim one (RFC 9110 section 15.2) announces another."""
        status = self._parser.get_status_code()
        if status < 100:
            raise ValueError("a status that is none")
        self._interim = 100 <= status < 200
        if self._interim:
            self.raw_headers = []
            return
        if self.status:
            raise ValueError("a second head")
        self._overhead = 0
        self.headers = Headers(self.raw_headers)
        self.status = status
        self._until_close = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        self._reusable = self._reusable and self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Some of the body, its framing removed."""
        self._overhead = 0
        if not self._interim:
            self._chunks.append(body)
            self._held += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self._interim:
            self._done = True


class Pool:
    """Connections to all upstreams of a node."""

    def __init__(self, limit: int, connect_timeout_s: float) -> None:
        """Make an empty pool.

        Args:
            limit: Connections in use at once; a further request waits for one.
            connect_timeout_s: Longest wait for a new connection, TLS included.
        """
        self._idle: dict[tuple[str, int, bool], deque[tuple[float, Link]]] = {}
        self._places: dict[Link, tuple[str, int, bool]] = {}
        self._free = asyncio.Semaphore(limit)
        self._connect_timeout_s = connect_timeout_s
        self.buffer = memoryview(bytearray(_READ_BYTES))
        """One for all connections: between asking for it and handing it over filled, the loop does nothing else."""
        self._tls: ssl.SSLContext | None = None

    async def take(self, address: Address) -> Link:
        """A connection to an address: the one used last, or a new one. Raises OSError, TimeoutError."""
        await self._free.acquire()
        place = address[:3]
        loop = asyncio.get_running_loop()
        idle = self._idle.get(place)
        while idle:
            since, link = idle.pop()
            if link.is_open and loop.time() - since < _IDLE_S and link.is_silent:
                self._places[link] = place
                return link
            link.abort()
        try:
            if address.tls and self._tls is None:
                self._tls = ssl.create_default_context()
            async with asyncio.timeout(self._connect_timeout_s):
                _, link = await loop.create_connection(
                    lambda: Link(self),
                    address.host,
                    address.port,
                    ssl=self._tls if address.tls else None,
                    server_hostname=address.host if address.tls else None,
                )
        except BaseException:
            self._free.release()
            raise
        self._places[link] = place
        return link

    def give_back(self, link: Link) -> None:
        """The connection can serve again."""
        place = self._places.pop(link, None)
        if place is not None:
            self._free.release()
            now = asyncio.get_running_loop().time()
            idle = self._idle.setdefault(place, deque())
            # The one used last is used next, so those at the other end may never be again.
            while idle and now - idle[0][0] >= _IDLE_S:
                idle.popleft()[1].abort()
            idle.append((now, link))

    def left(self, link: Link) -> None:
        """The connection was closed by whoever used it."""
        if self._places.pop(link, None) is not None:
            self._free.release()

    def forget(self, link: Link) -> None:
        """The connection is gone. Whoever uses it learns so from it; an idle one is no longer kept."""
        if link in self._places:
            return
        for idle in self._idle.values():
            for pair in list(idle):
                if pair[1] is link:
                    idle.remove(pair)

    def close(self) -> None:
        """Close what is idle, and what is in use."""
        for idle in self._idle.values():
            for _, link in idle:
                link.abort()
        self._idle.clear()
        for link in list(self._places):
            link.abort()
