# SPDX-License-Identifier: Apache-2.0
"""The console: one page of live verdicts behind a login, which reads and never acts.

Every answer carries the same strict headers. Query strings are ignored. A form is taken only from our own page: the
cookie is SameSite=Strict, the Origin is checked, and a form inside a session carries the session's token. What is
shown is what the share offers: where, what and why, never the text of a prompt.
"""

import asyncio
import contextlib
import hmac
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import parse_qs, urlsplit

import msgspec

from shieldwall.adapters import BusShare
from shieldwall.console import page
from shieldwall.console.session import Attempts, Session, Sessions, Settings
from shieldwall.core.errors import InvalidInput, LimitExceeded, Unauthorized
from shieldwall.core.ports import Bus
from shieldwall.gateway import AsgiConn, Keys

__all__ = ["Console", "Settings"]

_LOG = logging.getLogger(__name__)
_ROLES = ("viewer", "operator", "auditor", "approver")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_STATIC = {
    "/console/static/console.css": (b"text/css; charset=utf-8", page.static("console.css")),
    "/console/static/console.js": (b"text/javascript; charset=utf-8", page.static("console.js")),
    "/console/static/icon.svg": (b"image/svg+xml", page.ICON),
}
_QUEUED = 1_000
"""Verdicts that wait for a slow reader, beside those the bus keeps for it; the oldest are lost first."""
_Handler = Callable[[AsgiConn], Awaitable[None]]


class Console:
    """Answers everything below `/console/`.

    Args:
        seen: Keeps the latest verdicts and the counts.
        bus: Carries each new verdict on the topic `verdicts`.
        keys: The node's API keys; a login is a key of a role that may look.
        secure: Whether clients reach the node over TLS: the cookie is then never sent without it.
        settings: Bounds.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        seen: BusShare,
        bus: Bus,
        keys: Keys,
        *,
        secure: bool,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seen = seen
        self._bus = bus
        self._keys = keys
        self._secure = secure
        self._settings = settings or Settings()
        self._sessions = Sessions(self._settings, clock)
        self._attempts = Attempts(self._settings, clock)
        # The prefix makes browsers refuse the cookie from a page without TLS (RFC 6265bis, section 4.1.3).
        self._cookie = "__Secure-shieldwall" if secure else "shieldwall"
        self._streams = 0
        self._closing = asyncio.Event()
        self._routes: Mapping[str, tuple[tuple[str, ...], _Handler]] = {
            "/console": (("GET", "HEAD"), self._to_page),
            "/console/": (("GET", "HEAD"), self._show),
            "/console/login": (("POST",), self._log_in),
            "/console/logout": (("POST",), self._log_out),
            "/console/events": (("GET",), self._events),
        } | dict.fromkeys(_STATIC, (("GET", "HEAD"), self._static))

    async def handle(self, conn: AsgiConn) -> None:
        """Answer one request, whatever it holds; only the client's leaving ends it without an answer."""
        try:
            await self._route(conn)
        except asyncio.CancelledError:
            if not conn.gone:
                raise
        except TimeoutError:
            _LOG.info("a console client did not read its answer")
        except LimitExceeded:
            await _say(conn, 413, "Too large", "The form is larger than the console takes.")
        except InvalidInput:
            await _say(conn, 400, "Not readable", "The form could not be read. Go back and send it again.")
        finally:
            conn.unwatch()

    def close(self) -> None:
        """End every live page now, so that a stopping node need not wait for them. Browsers ask again on their own."""
        self._closing.set()

    async def _route(self, conn: AsgiConn) -> None:
        route = self._routes.get(conn.path)
        if route is None:
            await _say(conn, 404, "No such page", "The console has no page of that name.")
            return
        allowed, handler = route
        if conn.method not in allowed:
            allow = (b"allow", ", ".join(allowed).encode())
            await _say(conn, 405, "Not that way", f"This address takes {' or '.join(allowed)} only.", allow)
            return
        await handler(conn)

    async def _static(self, conn: AsgiConn) -> None:
        kind, body = _STATIC[conn.path]
        await conn.send(200, [(b"content-type", kind), *page.HEADERS], body)

    async def _to_page(self, conn: AsgiConn) -> None:
        await conn.send(307, [(b"location", b"/console/"), _TEXT, *page.HEADERS], b"")

    async def _show(self, conn: AsgiConn) -> None:
        """The verdicts to who is logged in, the login form to others."""
        session = self._session(conn)
        if session is None:
            await conn.send(200, [page.HTML, *page.HEADERS], page.login())
            return
        lines = [_line(each) for each in reversed(self._seen.latest)]
        key = session.key
        body = page.console(lines, self._seen.counts, name=key.name, role=key.role, token=session.token)
        await conn.send(200, [page.HTML, *page.HEADERS], body)

    async def _log_in(self, conn: AsgiConn) -> None:
        form = await self._form(conn)
        if form is None:
            return
        conn.watch()
        try:
            key = self._keys.of(form.get("key", "").strip())
        except Unauthorized:
            await self._refuse(conn)
            return
        if key.role not in _ROLES:
            _LOG.info("console login refused: key %s has role %s", key.name, key.role)
            sentence = f"A key of role {key.role} may call models, but not open the console. Use a key of role viewer."
            await conn.send(403, [page.HTML, *page.HEADERS], page.login(sentence))
            return
        before = self._session(conn)
        if before is not None:
            self._sessions.close(before)
        cookie, _ = self._sessions.open(key)
        _LOG.info("console login: key %s, role %s", key.name, key.role)
        await self._go_on(conn, cookie, max_age_s=int(self._settings.lifetime_s))

    async def _refuse(self, conn: AsgiConn) -> None:
        """Answer a wrong key, later the more of them there are. A right key never comes here, so it never waits."""
        wait_s = self._attempts.failed()
        if wait_s is None:
            retry = (b"retry-after", b"%d" % max(1, round(self._settings.failure_wait_s)))
            body = page.login("Too many wrong keys were tried just now. Wait a little, then try again.")
            await conn.send(429, [retry, page.HTML, *page.HEADERS], body)
            return
        _LOG.info("console login refused: unknown key")
        await asyncio.sleep(wait_s)
        # RFC 9110 section 11.6.1 wants a challenge with a 401; browsers ignore a scheme they do not know.
        challenge = (b"www-authenticate", b'Cookie realm="Shieldwall console"')
        body = page.login("This key is not known here. Check that it was copied whole and belongs to this node.")
        await conn.send(401, [challenge, page.HTML, *page.HEADERS], body)

    async def _log_out(self, conn: AsgiConn) -> None:
        form = await self._form(conn)
        if form is None:
            return
        session = self._session(conn)
        if session is not None:
            token = form.get("token", "").encode("utf-8", "replace")
            if not hmac.compare_digest(token, session.token.encode()):
                await _say(conn, 403, "Refused", "This form does not belong to your session. Open the console again.")
                return
            self._sessions.close(session)
        await self._go_on(conn, "", max_age_s=0)

    async def _go_on(self, conn: AsgiConn, cookie: str, *, max_age_s: int) -> None:
        value = f"{self._cookie}={cookie}; Path=/console/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict"
        value += "; Secure" if self._secure else ""
        await conn.send(303, [(b"location", b"/console/"), (b"set-cookie", value.encode()), _TEXT, *page.HEADERS], b"")

    async def _form(self, conn: AsgiConn) -> dict[str, str] | None:
        """The fields of a form that came from our own page; none when it did not, which is answered here.

        Raises:
            LimitExceeded: Larger than `max_form_bytes`.
            InvalidInput: No form, or not in time.
        """
        if not self._is_ours(conn):
            _LOG.warning("console form refused: it came from another site")
            await _say(
                conn, 403, "Refused", "This form was sent from another site. Open the console and send it there."
            )
            return None
        kind = conn.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/x-www-form-urlencoded":
            await _say(conn, 415, "Not a form", "This address takes a form only.")
            return None
        body = await conn.read_body(self._settings.max_form_bytes, self._settings.form_timeout_s)
        try:
            fields = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=8)
        except ValueError:
            raise InvalidInput("the form has too many fields") from None
        return {name: values[0] for name, values in fields.items()}

    def _is_ours(self, conn: AsgiConn) -> bool:
        """Whether a form was sent by a page of this origin, or by no browser at all.

        A browser says so twice: `Sec-Fetch-Site`, which no page can forge, where it trusts the connection, and
        `Origin`. A client that sends neither is no browser and carries nobody's cookie by itself.
        """
        site = conn.headers.get(b"sec-fetch-site")
        if site is not None and site != b"same-origin":
            return False
        origin = conn.headers.get(b"origin")
        if origin is None:
            return True
        if origin == b"null":
            return site is not None
        try:
            parts = urlsplit(origin.decode("latin-1").lower())
        except ValueError:
            return False
        # Behind something that ends TLS we see http where the browser sees https; only TLS of our own is insisted on.
        schemes = ("https",) if self._secure else ("http", "https")
        host = conn.headers.get(b"host", b"").decode("latin-1").lower()
        return parts.scheme in schemes and parts.netloc != "" and parts.netloc == host

    def _session(self, conn: AsgiConn) -> Session | None:
        for pair in conn.headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._cookie and value:
                return self._sessions.of(value)
        return None

    async def _events(self, conn: AsgiConn) -> None:
        """Each verdict as it is decided, until the session or the client ends it."""
        session = self._session(conn)
        if session is None:
            await conn.send(403, [_TEXT, *page.HEADERS], b"log in first\n")
            return
        if self._streams >= self._settings.max_streams:
            await conn.send(503, [(b"retry-after", b"60"), _TEXT, *page.HEADERS], b"too many live pages are open\n")
            return
        self._streams += 1
        conn.watch()
        try:
            # x-accel-buffering: a common proxy would otherwise gather the events before it passes them on.
            head = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no"), *page.HEADERS]
            await conn.send_head(200, head)
            async with contextlib.aclosing(self._feed(session, conn.headers.get(b"last-event-id", b""))) as feed:
                async for chunk in feed:
                    await conn.send_chunk(chunk)
            await conn.send_chunk(b"", last=True)
        finally:
            self._streams -= 1

    async def _feed(self, session: Session, last_id: bytes) -> AsyncGenerator[bytes, None]:
        """What a stream says: first what its reader may have missed, then each verdict, or a comment in silence."""
        verdicts = self._bus.subscribe("verdicts")
        # Read at once after subscribing, with no wait between: nothing is lost and nothing comes twice.
        missed = [page.line_event(each) for each in self._since(last_id)]
        waiting: deque[bytes] = deque(maxlen=_QUEUED)
        news = asyncio.Event()
        gathering = asyncio.ensure_future(_gather(verdicts, waiting, news))
        woken = asyncio.ensure_future(news.wait())
        ends = [asyncio.ensure_future(each.wait()) for each in (session.ended, self._closing)]
        try:
            # A subscription that never began to wait would not close either; this lets it begin.
            await asyncio.sleep(0)
            yield b"retry: 3000\n\n" + b"".join(missed) + page.count_event(self._seen.counts)
            while (left_s := self._sessions.left(session)) > 0:
                timeout_s = min(left_s, self._settings.heartbeat_s)
                await asyncio.wait({woken, gathering, *ends}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if self._closing.is_set() or (gathering.done() and not waiting):
                    return
                # Asked again before anything is said: nobody reads on after a logout. An open page is use.
                if not self._sessions.touch(session):
                    break
                if not waiting:
                    yield b": still here\n\n"
                    continue
                events = b"".join(map(_verdict_event, waiting))
                waiting.clear()
                news.clear()
                woken = asyncio.ensure_future(news.wait())
                yield events + page.count_event(self._seen.counts)
                await asyncio.sleep(self._settings.pace_s)
            yield b"event: end\ndata: {}\n\n"
        finally:
            tasks = (woken, gathering, *ends)
            for task in tasks:
                task.cancel()
            # Waited for, so that the subscription is closed when this stream is.
            await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(verdicts, AsyncGenerator):
                await verdicts.aclose()

    def _since(self, last_id: bytes) -> list[page.Line]:
        """The latest verdicts after the one named, oldest first; all of them where it is not among them."""
        lines = [_line(each) for each in self._seen.latest]
        keys = [line.key.encode() for line in lines]
        return lines[keys.index(last_id) + 1 :] if last_id in keys else lines


async def _gather(verdicts: AsyncIterator[bytes], waiting: deque[bytes], news: asyncio.Event) -> None:
    """Take messages as they come, so that a flood costs its stream a few larger chunks and not one wake-up each."""
    async for message in verdicts:
        waiting.append(message)
        news.set()


def _line(seen: object) -> page.Line:
    return msgspec.convert(seen, page.Line, from_attributes=True)


def _verdict_event(message: bytes) -> bytes:
    """A message of the bus as an event. Another node may share the bus, so what is no verdict is left out, and said."""
    try:
        return page.line_event(msgspec.json.decode(message, type=page.Line))
    except msgspec.MsgspecError:
        _LOG.warning("a message on the topic verdicts is not a verdict")
        return b""


async def _say(conn: AsgiConn, status: int, title: str, sentence: str, *extra: tuple[bytes, bytes]) -> None:
    """A page with one sentence. A body that was not read is not waited for: the connection ends with the answer."""
    if conn.started or conn.gone:
        return
    unread = [] if conn.method in {"GET", "HEAD"} else [(b"connection", b"close")]
    await conn.send(status, [page.HTML, *page.HEADERS, *extra, *unread], page.message(title, sentence))
