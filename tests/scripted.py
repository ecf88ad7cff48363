# SPDX-License-Identifier: Apache-2.0
"""A model's endpoint that does what a test tells it to, and remembers what it was sent and how it was left.

A test hands over a script (what to do with one request) and gets a model name; a request for that name runs it. So the
tests share one endpoint without meeting each other. It is an own asyncio protocol in a thread of its own: it can send
any bytes at all, stop in the middle, or never answer, and it sees the connection close at once.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

__all__ = [
    "Call",
    "Endpoint",
    "Script",
    "answer",
    "called",
    "chunk",
    "completion",
    "events",
    "keep",
    "message",
    "named",
    "reply",
    "said",
    "told",
    "until",
    "used",
]

Headers = Iterable[tuple[str, str]]

_PATIENCE_S = 30.0
"""How long a test waits for something that takes milliseconds; generous, for a machine that is busy."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and return what it gave. Fails with `what` when it never holds."""
    end = time.monotonic() + _PATIENCE_S
    while not (given := condition()):
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)
    return given


def keep(stream: Iterable[Any], received: list[Any]) -> None:
    """Read a stream into a list that keeps what came before an error."""
    for each in stream:
        received.append(each)  # noqa: PERF402  extending loses what came before the error


class Call:
    """One request that arrived, and the way to answer it."""

    def __init__(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.headers: list[tuple[str, str]] = []
        for each in lines:
            name, _, value = each.partition(":")
            self.headers.append((name.lower(), value.strip()))
        self.body = body
        self.sent = 0
        """Bytes given to the connection; it takes them only as fast as the other side reads."""
        self.closed = threading.Event()
        """The connection was closed before the script was through."""
        self.done = threading.Event()
        """The script ran to its end."""
        self._transport = transport
        self.writable = asyncio.Event()
        self.writable.set()

    def header(self, name: str) -> str | None:
        """A header's value, None where it was not sent."""
        return next((value for each, value in self.headers if each == name), None)

    async def write(self, data: bytes) -> None:
        """Send raw bytes; waits while the other side does not read."""
        self._transport.write(data)
        self.sent += len(data)
        # Waiting for what is already true does not yield, and a script that never yields is never told to stop.
        await asyncio.sleep(0)
        await self.writable.wait()

    async def whole(self, body: bytes, status: int = 200, headers: Headers = ()) -> None:
        """Send an answer with a stated length."""
        await self.write(_head(status, [*headers, ("content-length", str(len(body)))]) + body)

    async def open(self, headers: Headers = (("content-type", "text/event-stream"),), status: int = 200) -> None:
        """Send the head of an answer that comes in chunks."""
        await self.write(_head(status, [*headers, ("transfer-encoding", "chunked")]))

    async def chunk(self, data: bytes) -> None:
        """Send one chunk; empty ends the answer."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def abort(self) -> None:
        """Break the connection, as a machine that dies would."""
        self._transport.abort()


Script = Callable[[Call], Awaitable[None]]


def _head(status: int, headers: Headers) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(body: bytes | dict[str, Any], status: int = 200, headers: Headers = ()) -> Script:
    """A script that sends one whole answer, JSON unless the headers say otherwise."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = list(headers)
    if not any(name.lower() == "content-type" for name, _ in head):
        head.append(("content-type", "application/json"))

    async def run(call: Call) -> None:
        await call.whole(data, status, head)

    return run


def events(*chunks: bytes, pause_s: float = 0.002, headers: Headers = (), abort: bool = False) -> Script:
    """A script that streams these chunks, each on its own, then ends the answer, or breaks the connection."""

    async def run(call: Call) -> None:
        await call.open([("content-type", "text/event-stream"), *headers])
        for chunk in chunks:
            await call.chunk(chunk)
            # A pause lets each chunk arrive alone, so that the other side sees the cuts of the script.
            await asyncio.sleep(pause_s)
        if abort:
            call.abort()
        else:
            await call.chunk(b"")

    return run


class _Wire(asyncio.Protocol):
    """One connection: requests in, one after another, each answered by its script."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._buffer = b""
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._call is None:
            self._begin()

    def _begin(self) -> None:
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        sizes = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0]) if sizes else 0
        if len(rest) < size:
            return
        self._buffer = rest[size:]
        self._call = Call(self._transport, head, rest[:size])
        self._task = asyncio.get_running_loop().create_task(self._run(self._call))

    async def _run(self, call: Call) -> None:
        await self._endpoint.script(call)(call)
        call.done.set()
        self._call = self._task = None
        self._begin()

    def pause_writing(self) -> None:
        if self._call is not None:
            self._call.writable.clear()

    def resume_writing(self) -> None:
        if self._call is not None:
            self._call.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._endpoint.open_connections -= 1
        if self._call is not None and self._task is not None:
            self._call.closed.set()
            self._task.cancel()


class Endpoint:
    """The endpoint. Use as a context; `url` is where it listens."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Every request, in the order they came."""
        self.models: list[str] = []
        """What `GET /v1/models` lists."""
        self.connections = 0
        """Connections ever made."""
        self.open_connections = 0
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted endpoint", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        listening = self._loop.create_server(self._wire, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(_PATIENCE_S)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wire(self) -> _Wire:
        self.connections += 1
        self.open_connections += 1
        return _Wire(self)

    def model(self, script: Script) -> str:
        """A fresh model name whose requests run this script."""
        name = f"up-{next(self._numbers)}"
        self._scripts[name] = script
        return name

    def script(self, call: Call) -> Script:
        """What to do with a request that arrived."""
        self.calls.append(call)
        if call.method == "GET":
            return answer({"data": [{"id": name} for name in self.models]})
        return self._scripts[json.loads(call.body)["model"]]

    def soon(self, work: Callable[[], object]) -> None:
        """Have something done in the loop of the scripts."""
        self._loop.call_soon_threadsafe(work)

    def of(self, model: str) -> list[Call]:
        """The requests that arrived for a model."""
        return [call for call in self.calls if call.body and json.loads(call.body)["model"] == model]

    def one(self, model: str) -> Call:
        """The only request for a model, as soon as it is there."""
        until(lambda: self.of(model), f"a request for {model}")
        (call,) = self.of(model)
        return call


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One event of an OpenAI stream, spaced and ordered as no encoder of ours would write it."""
    choice = {"delta": delta, "index": 0, "finish_reason": finish, "x_vendor": None}
    head = {"object": "chat.completion.chunk", "id": "c-1", "created": 1, "model": "m"}
    return (
        b"data: " + json.dumps({"choices": [choice], **head}, indent=None, separators=(" ,", ": ")).encode() + b"\n\n"
    )


def said(*pieces: str) -> list[bytes]:
    """An OpenAI stream that says these pieces."""
    middle = [chunk({"content": piece}) for piece in pieces]
    return [chunk({"role": "assistant", "content": ""}), *middle, chunk({}, "stop"), b"data: [DONE]\n\n"]


def called(name: str, *pieces: str) -> list[bytes]:
    """An OpenAI stream that calls one tool, its arguments in pieces."""
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    middle = [chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces]
    return [chunk({"tool_calls": [head]}), *middle, chunk({}, "tool_calls"), b"data: [DONE]\n\n"]


def named(name: str, **data: Any) -> bytes:
    """One event of an Anthropic stream."""
    return f"event: {name}\ndata: {json.dumps({**data, 'type': name})}\n\n".encode()


def message(block: dict[str, Any], *deltas: dict[str, Any], stop: str = "end_turn") -> list[bytes]:
    """An Anthropic stream of one content block."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    head |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    return [
        named("message_start", message=head),
        named("content_block_start", index=0, content_block=block),
        named("ping"),
        *(named("content_block_delta", index=0, delta=delta) for delta in deltas),
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 2}),
        named("message_stop"),
    ]


def told(*pieces: str) -> list[bytes]:
    """An Anthropic stream that says these pieces."""
    return message({"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def used(name: str, *pieces: str) -> list[bytes]:
    """An Anthropic stream that uses one tool, its input in pieces."""
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
    return message(block, *({"type": "input_json_delta", "partial_json": each} for each in pieces), stop="tool_use")


def completion(content: str | None, **more: Any) -> bytes:
    """A whole OpenAI answer, with a field nobody has heard of and numbers written in unusual ways."""
    message = {"role": "assistant", "content": content, "refusal": None, **more}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if more else "stop", "logprobs": None}
    head = b'{ "id":"c-1",\t"object": "chat.completion","created":1e0, "model":"m", "x_vendor": [1.0E+2, -0.0],'
    return head + b' "choices": ' + json.dumps([choice]).encode() + b" }\r\n"


def reply(*blocks: dict[str, Any], stop: str = "end_turn") -> bytes:
    """A whole Anthropic answer, likewise."""
    head = b'{"id":"msg_1", "type":"message","role":"assistant",\n "model":"m", "x_vendor": {"a": 1.50}, "content":'
    usage = b' "usage": {"input_tokens": 1, "output_tokens": 1}}'
    return (
        head + json.dumps(list(blocks)).encode() + f', "stop_reason":"{stop}", "stop_sequence":null,'.encode() + usage
    )
