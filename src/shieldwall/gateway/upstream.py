# SPDX-License-Identifier: Apache-2.0
"""Where requests go: the endpoints of the configuration, chosen by model name. Nothing a client sends names an address.

Two implementations of one seam: `HttpUpstream` over pooled connections, and the scripted `demo`.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from shieldwall.core.errors import ConfigError, InvalidInput, UpstreamError, UpstreamTimeout
from shieldwall.gateway.link import Address, Link, Pool
from shieldwall.gateway.settings import Settings, UpstreamSettings

__all__ = ["HttpUpstream", "Reply", "Route", "Upstream", "Upstreams"]

_HOP_BY_HOP = frozenset(
    b"""connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding
    upgrade host content-length accept-encoding authorization x-api-key cookie expect forwarded x-forwarded-for
    x-forwarded-host x-forwarded-proto x-real-ip""".split()
)


class Reply(Protocol):
    """An upstream's answer: the head is there, the body still flows."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As received, repeated ones too."""

    async def read(self) -> bytes:
        """The next bytes as they came, empty at the end. Raises UpstreamError."""

    def close(self) -> None:
        """Stop: if the body is not at its end, the upstream is told by a closed connection."""


class Upstream(Protocol):
    """One endpoint."""

    async def send(self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        """Send a request whose path is relative to `/v1`. Raises UpstreamError."""

    async def close(self) -> None:
        """Close what is pooled."""


class HttpUpstream:
    """An endpoint over HTTP. The pool is shared by all upstreams of a node."""

    def __init__(self, settings: UpstreamSettings, pool: Pool, limits: Settings) -> None:
        address = Address.of(settings.url.rstrip("/"))
        self._address = address if address.base.endswith(b"/v1") else address._replace(base=address.base + b"/v1")
        self._pool = pool
        self._limits = limits
        key = _key(settings).encode()
        if not key:
            self._own = b""
        elif settings.dialect == "anthropic":
            self._own = b"x-api-key: %b\r\n" % key
        else:
            self._own = b"authorization: Bearer %b\r\n" % key

    async def send(self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        """Send a request; returns when the head of the answer is there."""
        try:
            # ASCII: a target is bytes of a URL, and what a client sent beyond that is not one.
            head = self._head(method.encode("ascii"), path.encode("ascii"), headers, len(body))
        except UnicodeEncodeError:
            raise InvalidInput("the query holds characters that a URL does not", where="query") from None
        link: Link | None = None
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                link = await self._pool.take(self._address)
                await link.request([head, body] if body else [head])
        except BaseException as error:
            if link is not None:
                link.abort()
                link.release()
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout("the model's endpoint did not answer in time") from None
            if isinstance(error, OSError):
                raise UpstreamError(f"the model's endpoint cannot be reached ({type(error).__name__})") from None
            raise
        return _HttpReply(link, self._limits.idle_timeout_s)

    async def close(self) -> None:
        """The pool belongs to `Upstreams`."""

    def _head(self, method: bytes, path: bytes, headers: Mapping[bytes, bytes], size: int) -> bytes:
        dropped = _HOP_BY_HOP
        if b"connection" in headers:
            # RFC 9110 section 7.6.1: what `Connection` names concerns this hop alone.
            dropped = dropped | {name.strip().lower() for name in headers[b"connection"].split(b",")}
        passed = b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers.items() if name not in dropped])
        length = b"content-length: %d\r\n" % size if size or method != b"GET" else b""
        # Compressed answers could not be inspected as they pass.
        return b"%b %b%b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n%b%b%b\r\n" % (
            method, self._address.base, path, self._address.name, length, self._own, passed,
        )  # fmt: skip


class _HttpReply:
    __slots__ = ("_idle_s", "_link", "headers", "raw_headers", "status")

    def __init__(self, link: Link, idle_s: float) -> None:
        self._link: Link | None = link
        self._idle_s = idle_s
        self.status = link.status
        self.headers = link.headers
        self.raw_headers = link.raw_headers

    async def read(self) -> bytes:
        link = self._link
        if link is None:
            return b""
        # What is there already needs no clock.
        if data := link.taken():
            return data
        try:
            async with asyncio.timeout(self._idle_s):
                return await link.read()
        except TimeoutError:
            raise UpstreamTimeout("the model's endpoint fell silent in mid-answer") from None

    def close(self) -> None:
        if self._link is not None:
            self._link.release()
            self._link = None


class Route:
    """An upstream and what it serves."""

    def __init__(self, name: str, settings: UpstreamSettings, upstream: Upstream) -> None:
        self.name = name
        self.settings = settings
        self.upstream = upstream

    def serves(self, model: str, dialect: str) -> bool:
        """Whether this upstream takes the model, asked for in that dialect."""
        if self.settings.dialect not in (dialect, "demo"):
            return False
        return any(model == pattern or fnmatchcase(model, pattern) for pattern in self.settings.models)


class Upstreams:
    """All endpoints of a node, in the order of its configuration."""

    def __init__(self, routes: list[Route], pool: Pool | None = None) -> None:
        self.routes = routes
        self._pool = pool

    @classmethod
    def open(cls, settings: Mapping[str, UpstreamSettings], limits: Settings, demo: Upstream) -> "Upstreams":
        """Make the pool, inside the loop that will use it. Raises ConfigError where an address or a key is none."""
        pool = Pool(limits.max_upstream_connections, limits.connect_timeout_s)
        routes = [
            Route(name, each, demo if each.url.startswith("demo:") else HttpUpstream(each, pool, limits))
            for name, each in settings.items()
        ]
        return cls(routes, pool)

    def route(self, model: str, dialect: str) -> Route:
        """The first upstream that takes the model. Raises InvalidInput."""
        for route in self.routes:
            if route.serves(model, dialect):
                return route
        raise InvalidInput(
            "no upstream serves this model in this dialect", where="/model", hint="GET /v1/models lists what is served"
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            self._pool.close()
            # The loop closes what was left in its next turn.
            await asyncio.sleep(0)


def _key(settings: UpstreamSettings) -> str:
    if settings.key_file:
        try:
            key = Path(settings.key_file).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                "the upstream's key_file cannot be read", hint="name a readable file that holds the key alone"
            ) from None
        return _checked(key, "the upstream's key_file", "name a readable file that holds the key alone")
    if settings.key_env:
        key = os.environ.get(settings.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"the environment variable {settings.key_env} is not set",
                hint="set it to the provider's key, or remove key_env",
            )
        return _checked(key, f"the environment variable {settings.key_env}", "set it to the provider's key alone")
    return ""


def _checked(key: str, source: str, hint: str) -> str:
    """A key that fits into a header: found out at start, not at the first request. Raises ConfigError."""
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{source} holds no key", hint=hint)
    return key
