# SPDX-License-Identifier: Apache-2.0
"""One exchange with a model: read, judge, forward, judge the answer, release.

Order that promise 4 rests on: the request's verdict is handed to the journal before the upstream is asked; the first
byte of the answer leaves after that record is on disk, the last byte after the response's is. A refusal waits for its
record.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from shieldwall.core.errors import Error, InvalidInput, UpstreamError
from shieldwall.core.event import Direction, Event, Role, Segment, Surface, Trust
from shieldwall.core.guard import Guard, Judgement
from shieldwall.core.ports import Recorded
from shieldwall.core.verdict import Action, Category, Decision, Finding, PolicyRef, Verdict
from shieldwall.gateway.conn import AsgiConn, Headers
from shieldwall.gateway.dialect import Ask, Dialect, Refusal
from shieldwall.gateway.keys import Key
from shieldwall.gateway.refusal import refusal_of
from shieldwall.gateway.session import Sessions
from shieldwall.gateway.settings import Settings
from shieldwall.gateway.stream import Gate
from shieldwall.gateway.upstream import Reply, Upstreams
from shieldwall.gateway.wire import uninspected

__all__ = ["Exchange", "Proxy", "blocked", "read_all", "send_refusal"]

_NOT_PASSED = frozenset(
    b"""connection keep-alive proxy-authenticate transfer-encoding upgrade content-length trailer server date set-cookie
    alt-svc strict-transport-security""".split()
)
_AFTER_LAST_S = 1.0
"""How long a stream may stay open after the event that announces its end."""

_AT_ONCE_BYTES = 256 << 10
"""Up to this size a message is read and judged in the loop, in a few milliseconds at most."""

T = TypeVar("T")


@dataclass(slots=True)
class Exchange:
    """One request on its way through."""

    conn: AsgiConn
    dialect: Dialect
    key: Key
    event: Event
    entry: int | None = None
    action: Action = Action.ALLOW

    def headers(self) -> Headers:
        """What every answer of ours carries."""
        headers = [
            (b"x-shieldwall-event", self.event.id.encode()),
            (b"x-shieldwall-action", self.action.value.encode()),
        ]
        if self.entry is not None:
            headers.append((b"x-shieldwall-entry", b"%d" % self.entry))
        return headers


class Proxy:
    """Guards the model routes of one node."""

    def __init__(self, guard: Guard, upstreams: Upstreams, settings: Settings, *, enforce: bool) -> None:
        self._guard = guard
        self._upstreams = upstreams
        self._settings = settings
        self._enforce = enforce
        self._sessions = Sessions()

    async def run(self, exchange: Exchange) -> None:
        """Take one exchange from its body to its last byte. Raises Error for what has no answer yet."""
        conn, dialect = exchange.conn, exchange.dialect
        body = b""
        try:
            body = await conn.read_body(self._settings.max_body_bytes, self._settings.body_timeout_s)
            encoding = conn.headers.get(b"content-encoding", b"identity")
            if encoding != b"identity":
                raise InvalidInput("compressed request bodies are not accepted", where="content-encoding")  # noqa: TRY301
            ask = await _aside(len(body), dialect.ask, body)
            route = self._upstreams.route(ask.model, dialect.name)
        except InvalidInput as error:
            await self.trace(exchange, "invalid_input", where=error.where, body=body)
            raise
        event = exchange.event = self._event(exchange, ask)
        verdict, recorded = await self._judge(event, body, ask.uninspected)
        exchange.action = verdict.action
        if self._stops(verdict):
            await self._refuse(exchange, verdict, recorded)
            return
        conn.watch()
        path = dialect.route + (f"?{conn.query.decode('latin-1')}" if conn.query else "")
        try:
            reply = await route.upstream.send(conn.method, path, conn.headers, body)
        except UpstreamError:
            # The request was judged; its record stands whatever became of the upstream.
            exchange.entry = await _durable(recorded)
            raise
        try:
            exchange.entry = await _durable(recorded)
            answering = msgspec.structs.replace(event, direction=Direction.RESPONSE, segments=())
            if _is_stream(reply):
                await self._stream(exchange, reply, answering)
            else:
                await self._whole(exchange, reply, answering)
        finally:
            reply.close()

    async def _judge(self, event: Event, body: bytes, also: Sequence[Finding]) -> Judgement:
        return await self._guard.ajudge(event, content=hashlib.sha256(body).digest(), also=also)

    def _event(self, exchange: Exchange, ask: Ask) -> Event:
        key = exchange.key
        return msgspec.structs.replace(
            exchange.event,
            model=ask.model,
            session=self._sessions.of(key.id, ask, exchange.event.id),
            segments=ask.segments,
        )

    def _stops(self, verdict: Verdict | Decision) -> bool:
        # Until redaction exists, what may only pass redacted does not pass.
        return self._enforce and (verdict.action.stops or verdict.action is Action.REDACT)

    async def trace(self, exchange: Exchange, what: str, *, where: str = "", body: bytes = b"") -> None:
        """Record a request that is refused before it was judged: nobody probes the gateway without a trace.

        Args:
            exchange: What is refused; it is recorded once, however often this is called.
            what: Why, as a word: the record's reason and the end of its rule's name.
            where: Place in the request that is at fault.
            body: As far as it was read.
        """
        if exchange.entry is not None:
            return
        exchange.action = Action.BLOCK
        _, recorded = self._guard.conclude(
            exchange.event,
            [uninspected(where[:256], Surface.UNKNOWN, what)],
            content=hashlib.sha256(body).digest(),
            decision=Decision(action=Action.BLOCK, policy=PolicyRef(f"gateway.{what}", ""), reason=what),
        )
        exchange.entry = await _durable(recorded)

    async def _refuse(self, exchange: Exchange, verdict: Verdict, recorded: Recorded | None) -> None:
        exchange.entry = await _durable(recorded)
        refusal = blocked(verdict.findings, exchange.event.id, held=verdict.action is Action.HOLD)
        await send_refusal(exchange, refusal)

    async def _whole(self, exchange: Exchange, reply: Reply, event: Event) -> None:
        """An answer that is held until it is judged."""
        body = await read_all(reply, self._settings.max_answer_bytes)
        segments, also = await _aside(len(body), self._read_answer, exchange, reply, body)
        event = msgspec.structs.replace(event, segments=segments)
        verdict, recorded = await self._judge(event, body, also)
        await _durable(recorded)
        if verdict.action.rank > exchange.action.rank:
            exchange.action = verdict.action
        if self._stops(verdict):
            refusal = blocked(verdict.findings, event.id, held=verdict.action is Action.HOLD)
            await send_refusal(exchange, refusal)
            return
        await exchange.conn.send(reply.status, [*_passed(reply), *exchange.headers()], body)

    def _read_answer(
        self, exchange: Exchange, reply: Reply, body: bytes
    ) -> tuple[tuple[Segment, ...], Sequence[Finding]]:
        """Segments of a whole answer. What is not JSON is judged as the text it is."""
        if reply.headers.get("Content-Encoding", "identity") != "identity":
            return (), [uninspected("", Surface.RESPONSE, "content_encoding")]
        if not body:
            return (), []
        also: list[Finding] = []
        if "json" in reply.headers.get("Content-Type", ""):
            try:
                return exchange.dialect.answer(body)
            except InvalidInput:
                also.append(uninspected("", Surface.RESPONSE, "framing"))
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return (), [*also, uninspected("", Surface.RESPONSE, "binary")]
        return (Segment(text, Role.ASSISTANT, Surface.UNKNOWN, Trust.MODEL, ""),), also

    async def _stream(self, exchange: Exchange, reply: Reply, event: Event) -> None:
        """An answer that passes while it is judged."""
        gate = Gate(self._guard, event, exchange.dialect, self._settings, enforce=self._enforce)
        content = hashlib.sha256()
        conn = exchange.conn
        rest = b""
        failure: Error | None = None
        concluded = False
        try:
            try:
                await conn.send_head(reply.status, [*_passed(reply), *exchange.headers()])
                while data := await _next(reply, ending=gate.ending):
                    content.update(data)
                    out = gate.feed(data)
                    if out:
                        await conn.send_chunk(out)
                    if gate.stopped is not None:
                        break
                if gate.stopped is None:
                    rest = gate.end()
            except (InvalidInput, UpstreamError) as error:
                failure = error
                _judge_rest(gate, error)
            judgement = self._conclude_stream(event, gate, content.digest(), complete=failure is None)
            concluded = True
            entry = await _durable(judgement.recorded)
            await self._end_stream(exchange, gate, rest, failure, entry)
        finally:
            if not concluded:
                # The client left, or stopped reading: what it had until then is judged and recorded all the same.
                _judge_rest(gate)
                self._conclude_stream(event, gate, content.digest(), complete=False)

    def _conclude_stream(self, event: Event, gate: Gate, content: bytes, *, complete: bool) -> Judgement:
        return self._guard.conclude(event, gate.findings, content=content, complete=complete)

    async def _end_stream(
        self, exchange: Exchange, gate: Gate, rest: bytes, failure: Error | None, entry: int | None
    ) -> None:
        """The last bytes of a stream, once the record of its verdict is on disk."""
        dialect, event = exchange.dialect, exchange.event.id
        if gate.stopped is not None:
            held = gate.stopped.action is Action.HOLD
            rest = dialect.stream_error(blocked(gate.findings, event, held=held), event)
        elif failure is not None:
            rest = dialect.stream_error(refusal_of(failure), event)
        comment = b"" if entry is None else b": x-shieldwall-entry %d\n\n" % entry
        # Before the terminator: clients stop reading at it.
        await exchange.conn.send_chunk(comment + rest, last=True)


def _judge_rest(gate: Gate, error: Error | None = None) -> None:
    """Judge to its end what the client has of a stream that broke off; what is past a limit is named."""
    try:
        gate.end()
    except InvalidInput as again:
        error = again
    if isinstance(error, InvalidInput):
        gate.findings.append(uninspected("", Surface.RESPONSE, "limit"))


async def send_refusal(exchange: Exchange, refusal: Refusal, headers: Headers | None = None) -> None:
    """Answer with an error in the caller's dialect."""
    body = exchange.dialect.error(refusal, exchange.event.id)
    # openai and anthropic clients retry by status; this header tells them outright.
    retry = b"true" if refusal.status in (429, 502, 503, 504) else b"false"
    head = [(b"content-type", b"application/json"), (b"x-should-retry", retry), *exchange.headers(), *(headers or [])]
    send = exchange.conn.send if exchange.conn.body_read else exchange.conn.send_early
    await send(refusal.status, head, body)


def blocked(findings: Sequence[Finding], event: str, *, held: bool) -> Refusal:
    """The refusal of a blocked message: its category and event, never the rule."""
    worst = max(findings, key=lambda finding: finding.score, default=None)
    category = worst.category if worst is not None else Category.INTEGRITY
    if held:
        message = f"held by policy: {category.value}; it needs an approval (event {event})"
        return Refusal(403, "permission", message, code="needs_approval")
    return Refusal(403, "permission", f"blocked by policy: {category.value} (event {event})", code="blocked")


async def _aside(size: int, work: Callable[..., T], *arguments: object) -> T:
    """Do long reading in a thread, so that other exchanges go on; short reading costs less than the thread."""
    if size <= _AT_ONCE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


async def _durable(recorded: Recorded | None) -> int | None:
    return None if recorded is None else await recorded


def _is_stream(reply: Reply) -> bool:
    kind = reply.headers.get("Content-Type", "")
    # Two types are none we know: one reader takes the first, another the last.
    return (
        kind.startswith("text/event-stream")
        and "," not in kind
        and reply.headers.get("Content-Encoding", "identity") == "identity"
    )


async def _next(reply: Reply, *, ending: bool) -> bytes:
    """The next bytes; after the event that announces the end, only what comes at once."""
    if not ending:
        return await reply.read()
    try:
        async with asyncio.timeout(_AFTER_LAST_S):
            return await reply.read()
    except (TimeoutError, UpstreamError):
        return b""


async def read_all(reply: Reply, limit: int) -> bytes:
    """A whole answer. Raises UpstreamError past `limit` bytes."""
    first = await reply.read()
    parts = [first]
    size = len(first)
    while data := await reply.read():
        parts.append(data)
        size += len(data)
        if size > limit:
            raise UpstreamError(f"the model's answer is over {limit} bytes", hint="raise gateway.max_answer_bytes")
    return first if len(parts) == 1 else b"".join(parts)


def _passed(reply: Reply) -> Headers:
    """The upstream's headers that reach the client."""
    return [
        (name, value)
        for name, value in reply.raw_headers
        if (low := name.lower()) not in _NOT_PASSED and not low.startswith(b"x-shieldwall-")
    ]
