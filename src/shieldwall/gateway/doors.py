# SPDX-License-Identifier: Apache-2.0
"""The gateway's routes: which path is which dialect, who may use it, and what every answer carries."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from shieldwall.core.errors import Error, Forbidden, InvalidInput, Unauthorized
from shieldwall.core.event import Direction, Event, event_id, utc
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.gateway.anthropic import Anthropic
from shieldwall.gateway.conn import AsgiConn
from shieldwall.gateway.dialect import Dialect, Refusal
from shieldwall.gateway.inspection import inspect
from shieldwall.gateway.keys import ROLES, Key, Keys
from shieldwall.gateway.models import list_models
from shieldwall.gateway.openai import OpenAI
from shieldwall.gateway.proxy import Exchange, Proxy, send_refusal
from shieldwall.gateway.refusal import refusal_of
from shieldwall.gateway.settings import Settings
from shieldwall.gateway.upstream import Upstreams

__all__ = ["Doors"]

_LOG = logging.getLogger(__name__)
_NOBODY = Key(id="", name="", role="user", tenant="", sha256="")
_OPENAI = OpenAI()
_ANTHROPIC = Anthropic()


class Doors:
    """Answers everything below `/v1/`."""

    def __init__(
        self,
        *,
        guard: Guard,
        keys: Keys,
        upstreams: Upstreams,
        settings: Settings,
        surroundings: Surroundings,
        enforce: bool,
    ) -> None:
        self._guard = guard
        self._keys = keys
        self._upstreams = upstreams
        self._settings = settings
        self._at = surroundings
        self._proxy = Proxy(guard, upstreams, settings, enforce=enforce)
        self._enforce = enforce

    async def handle(self, conn: AsgiConn) -> None:
        """Answer one request, whatever happens; only the client's leaving ends it without an answer."""
        dialect = _dialect(conn)
        exchange = Exchange(conn, dialect, _NOBODY, self._event(conn.path, dialect))
        try:
            exchange.key = key = self._keys.authenticate(conn.headers, *ROLES)
            exchange.event = msgspec.structs.replace(exchange.event, tenant=key.tenant, principal=key.name)
            await self._admit(exchange)
        except asyncio.CancelledError:
            # The client left. Everything opened on its behalf was closed on the way here.
            if not conn.gone:
                raise
        except TimeoutError:
            _LOG.info("a client did not read its answer; event %s", exchange.event.id)
        except Error as error:
            await self._fail(exchange, error)
        except Exception:  # noqa: BLE001  a fault of ours must not become silence
            _LOG.exception("unexpected failure; event %s", exchange.event.id)
            await self._fail(exchange, Error("internal"))
        finally:
            conn.unwatch()

    async def _admit(self, exchange: Exchange) -> None:
        """Answer somebody we know; what is refused for its form or for the key's role leaves a trace too."""
        try:
            self._keys.permit(exchange.key, "user", "operator")
            await self._route(exchange)
        except InvalidInput as error:
            await self._proxy.trace(exchange, "invalid_input", where=error.where)
            raise
        except Forbidden:
            await self._proxy.trace(exchange, "role")
            raise

    async def _route(self, exchange: Exchange) -> None:
        conn = exchange.conn
        path = conn.path
        if path in ("/v1/chat/completions", "/v1/messages"):
            await self._only(exchange, "POST", self._proxy.run)
        elif path == "/v1/inspect":
            await self._only(exchange, "POST", self._inspect)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            await self._only(exchange, "GET", self._models)
        else:
            await self._proxy.trace(exchange, "unknown_route")
            message = f"this gateway does not guard {conn.method} on that path, so it does not forward it"
            await send_refusal(exchange, Refusal(404, "not_found", message, code="unknown_route"))

    async def _only(self, exchange: Exchange, method: str, answer: Callable[[Exchange], object]) -> None:
        if exchange.conn.method != method:
            await self._proxy.trace(exchange, "method")
            refusal = Refusal(405, "invalid_request", f"use {method} on this path", code="method_not_allowed")
            await send_refusal(exchange, refusal, [(b"allow", method.encode())])
            return
        await answer(exchange)  # type: ignore[misc]

    async def _inspect(self, exchange: Exchange) -> None:
        body = await exchange.conn.read_body(self._settings.max_body_bytes, self._settings.body_timeout_s)
        answer, action, entry = await inspect(self._guard, exchange.event, body, self._at)
        exchange.action, exchange.entry = action, entry
        await exchange.conn.send(200, [(b"content-type", b"application/json"), *exchange.headers()], answer)

    async def _models(self, exchange: Exchange) -> None:
        body = await list_models(self._upstreams, exchange.dialect.name, exchange.conn.path.removeprefix("/v1/models"))
        if body is None:
            raise InvalidInput("no upstream serves this model in this dialect", where="/model")
        await exchange.conn.send(200, [(b"content-type", b"application/json"), *exchange.headers()], body)

    def _event(self, path: str, dialect: Dialect) -> Event:
        now = self._at.clock()
        return Event(
            id=event_id(now, self._at.entropy(10)),
            time=utc(now),
            route=path[:256],
            dialect=dialect.name,
            direction=Direction.REQUEST,
        )

    async def _fail(self, exchange: Exchange, error: Error) -> None:
        """An error becomes an answer in the caller's dialect, or a broken connection where half of one is out."""
        if exchange.conn.started or exchange.conn.gone:
            return
        refusal = refusal_of(error)
        extra = [(b"retry-after", b"1")] if refusal.status == 503 else []
        if isinstance(error, Unauthorized):
            extra.append((b"www-authenticate", b"Bearer"))
        await send_refusal(exchange, refusal, extra)


def _dialect(conn: AsgiConn) -> Dialect:
    """Which words to answer in: by path, or by the header only one of the clients sends."""
    anthropic = conn.path.startswith("/v1/messages") or b"anthropic-version" in conn.headers
    return _ANTHROPIC if anthropic else _OPENAI
