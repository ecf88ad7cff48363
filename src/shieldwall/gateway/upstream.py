# SPDX-License-Identifier: Apache-2.0
"""Where requests go: the endpoints of the configuration, chosen by model name. Nothing a client sends names an address.

Two implementations of one seam: `HttpUpstream` over aiohttp, and the scripted `demo`.
"""

import asyncio
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import aiohttp
from yarl import URL

from shieldwall.core.errors import ConfigError, InvalidInput, UpstreamError, UpstreamTimeout
from shieldwall.gateway.settings import Settings, UpstreamSettings

__all__ = ["HttpUpstream", "Reply", "Route", "Upstream", "Upstreams"]

_HOP_BY_HOP = frozenset(
    b"""connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding
    upgrade host content-length accept-encoding authorization x-api-key cookie expect forwarded x-forwarded-for
    x-forwarded-host x-forwarded-proto x-real-ip""".split()
)
_READ_BUFFER = 16 << 10
"""aiohttp reads ahead up to twice this; small, so that a client that does not read costs little."""


class Reply(Protocol):
    """An upstream's answer: the head is there, the body still flows."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
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

    def __init__(self, settings: UpstreamSettings, session: aiohttp.ClientSession, limits: Settings) -> None:
        try:
            base = URL(settings.url.rstrip("/"))
        except ValueError:
            raise ConfigError(
                "an upstream's url is not an address", hint="such as https://api.example.org/v1"
            ) from None
        self._base = base if base.path.endswith("/v1") else base / "v1"
        self._session = session
        self._limits = limits
        self._dialect = settings.dialect
        self._key = _key(settings)
        self._urls: dict[str, URL] = {}

    async def send(self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        """Send a request; returns when the head of the answer is there."""
        url = self._urls.get(path)
        if url is None:
            url = URL(f"{self._base}{path}", encoded=True)
            if "?" not in path:
                # The routes are few; a query is the client's, and as many as it likes.
                self._urls[path] = url
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                response = await self._session.request(
                    method, url, data=body or None, headers=self._headers(headers), allow_redirects=False
                )
        except TimeoutError:
            raise UpstreamTimeout("the model's endpoint did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the model's endpoint cannot be reached ({type(error).__name__})") from None
        return _HttpReply(response, self._limits.idle_timeout_s)

    async def close(self) -> None:
        """The session belongs to `Upstreams`."""

    def _headers(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        dropped = _HOP_BY_HOP
        if b"connection" in headers:
            # RFC 9110 section 7.6.1: what `Connection` names concerns this hop alone.
            dropped = dropped | {name.strip().lower() for name in headers[b"connection"].split(b",")}
        passed = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items() if name not in dropped
        }
        # Compressed answers could not be inspected as they pass.
        passed["accept-encoding"] = "identity"
        if self._key:
            if self._dialect == "anthropic":
                passed["x-api-key"] = self._key
            else:
                passed["authorization"] = f"Bearer {self._key}"
        return passed


class _HttpReply:
    __slots__ = ("_content", "_idle_s", "_response", "headers", "raw_headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._response = response
        self._content = response.content
        self._idle_s = idle_s
        self.status = response.status
        self.headers = response.headers
        self.raw_headers = response.raw_headers

    async def read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._content.readany()
        except TimeoutError:
            raise UpstreamTimeout("the model's endpoint fell silent in mid-answer") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the model's endpoint broke off ({type(error).__name__})") from None

    def close(self) -> None:
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()


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

    def __init__(self, routes: list[Route], session: aiohttp.ClientSession | None = None) -> None:
        self.routes = routes
        self._session = session

    @classmethod
    def open(cls, settings: Mapping[str, UpstreamSettings], limits: Settings, demo: Upstream) -> "Upstreams":
        """Make the pool, inside the loop that will use it. Raises ConfigError where an address or a key is none."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limits.max_upstream_connections, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
            # The environment names no proxy for us: what is connected to stands in the configuration alone.
            trust_env=False,
        )
        try:
            routes = [
                Route(name, each, demo if each.url.startswith("demo:") else HttpUpstream(each, session, limits))
                for name, each in settings.items()
            ]
        except ConfigError:
            # Nothing is connected yet; letting go of the empty pool is all there is to close.
            session.detach()
            raise
        return cls(routes, session)

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
        if self._session is not None:
            await self._session.close()


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
