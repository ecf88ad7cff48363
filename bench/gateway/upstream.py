# SPDX-License-Identifier: Apache-2.0
"""A double of a model endpoint that answers at once, so that whatever time passes was spent by the proxy before it.

It speaks as much of the OpenAI API as the benchmarks need: `/v1/chat/completions` as JSON (about 600 bytes) or as a
stream of events, and `/v1/models`. What it does for one request stands in the prompt, because a prompt is the one
thing every proxy passes on: `delay_ms=50` waits before the first byte, `gap_ms=2` between events, `endless=1` sends
events as fast as the reader takes them. `GET /stats` tells what was sent, per endless stream, to the byte.

Each event is one write in its own turn of the loop, so each can be its own packet: a reader that keeps up sees 50
reads.
"""

import argparse
import asyncio
import http.client
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Final, cast

import httptools
import msgspec
import uvloop

EVENTS: Final = 50
"""Data events per stream; the first carries text, the last says `stop`. `[DONE]` follows and is not counted."""

_WORDS: Final = (
    "the river carries small boats past green banks and quiet villages while people wait for rain and read old "
    "letters about distant harbours where copper bells ring each morning before bread is baked and sold"
).split()

_OPTION: Final = re.compile(rb"(delay_ms|gap_ms|endless)=(\d{1,5})")
_STREAMED: Final = re.compile(rb'"stream"\s*:\s*true')
_BATCH: Final = 4
"""Endless mode: events per turn of the loop. More would let one reader starve the others."""
_LONG_WORDS: Final = 350
"""Endless mode: words per event, some 2 KB. For a client that reads nothing the kernel takes megabytes before anyone
has to wait, and the proxy judges them all: in events of one word that would take minutes."""


class Wish(msgspec.Struct, frozen=True):
    """What one request asked for."""

    streamed: bool
    delay_s: float
    gap_s: float
    endless: bool


def read_wish(body: bytes) -> Wish:
    """Read the options out of a request body; what is not there is zero."""
    options = {name: int(value) for name, value in _OPTION.findall(body)}
    return Wish(
        streamed=_STREAMED.search(body) is not None,
        delay_s=options.get(b"delay_ms", 0) / 1000,
        gap_s=options.get(b"gap_ms", 0) / 1000,
        endless=options.get(b"endless", 0) > 0,
    )


def _words(start: int, count: int) -> str:
    return " ".join(_WORDS[(start * 7 + step) % len(_WORDS)] for step in range(count))


def _answer(variant: int) -> bytes:
    """A whole HTTP answer with a completion of some 600 bytes."""
    message = {"role": "assistant", "content": _words(variant, 52) + ".", "refusal": None}
    body = msgspec.json.encode(
        {
            "id": f"chatcmpl-bench{variant:04d}",
            "object": "chat.completion",
            "created": 1_760_000_000 + variant,
            "model": "bench",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 210, "completion_tokens": 52, "total_tokens": 262},
        }
    )
    return _head(200, b"application/json", len(body)) + body


def _head(status: int, content_type: bytes, length: int | None) -> bytes:
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%b\r\n\r\n" % (status, content_type, framing)


def _event_data(variant: int, place: int, *, words: int = 1, last: bool = False) -> bytes:
    """One event, without HTTP framing."""
    delta: dict[str, str] = {} if last else {"content": _words(variant + place, words) + " "}
    if place == 0:
        delta = {"role": "assistant", **delta}
    data = msgspec.json.encode(
        {
            "id": f"chatcmpl-bench{variant:04d}",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000 + variant,
            "model": "bench",
            "choices": [{"index": 0, "delta": delta, "finish_reason": "stop" if last else None}],
        }
    )
    return b"data: " + data + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_VARIANTS: Final = 64
_STREAM_HEAD: Final = _head(200, b"text/event-stream", None)
_STREAM_END: Final = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _json_answers() -> list[bytes]:
    return [_answer(variant) for variant in range(_VARIANTS)]


def _chunks(variant: int) -> list[bytes]:
    return [_chunk(_event_data(variant, place, last=place == EVENTS - 1)) for place in range(EVENTS)]


def _streams() -> list[list[bytes]]:
    """For each variant the writes of one stream: head, events, end."""
    return [[_STREAM_HEAD, *_chunks(variant), _STREAM_END] for variant in range(_VARIANTS)]


class StreamStats(msgspec.Struct, frozen=True):
    """One endless stream: the port of its reader, and the bytes that have left for the kernel."""

    port: int
    sent: int


class Stats(msgspec.Struct, frozen=True):
    """What `GET /stats` answers."""

    requests: int
    """Completions asked for since the start."""
    endless: list[StreamStats]


def read_stats(port: int) -> Stats:
    """Ask a running endpoint what it did."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("GET", "/stats")
        return msgspec.json.decode(link.getresponse().read(), type=Stats)
    finally:
        link.close()


class Counters:
    """What the endpoint did since it started."""

    def __init__(self) -> None:
        self.requests = 0
        self.endless: set[Exchange] = set()

    def report(self) -> bytes:
        """Counters as JSON; what is still queued here was not sent."""
        streams = [
            StreamStats(stream.peer_port, stream.written - stream.transport.get_write_buffer_size())
            for stream in self.endless
        ]
        return msgspec.json.encode(Stats(self.requests, streams))


class Exchange(asyncio.Protocol):
    """One connection: reads requests one after the other and answers each."""

    transport: asyncio.Transport

    def __init__(
        self, counters: Counters, answers: list[bytes], streams: list[list[bytes]], endless: list[bytes]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._answers = answers
        self._streams = streams
        self._endless_events = endless
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._is_open = True
        self._is_paused = False
        self._endless: itertools.cycle[bytes] | None = None
        self.peer_port = 0
        self.written = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports have the methods but not the base class, so `isinstance` would say no.
        self.transport = cast("asyncio.Transport", transport)
        self.peer_port = transport.get_extra_info("peername")[1]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        self._is_open = False
        self._counters.endless.discard(self)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def pause_writing(self) -> None:  # noqa: D102
        self._is_paused = True

    def resume_writing(self) -> None:  # noqa: D102
        self._is_paused = False
        if self._endless is not None:
            self._write_endless()

    def on_url(self, url: bytes) -> None:
        """Parser's callback: a part of the target; it also opens a new message."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Parser's callback."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Parser's callback: the request is here, answer it."""
        url, self._url = self._url, b""
        body, self._body = b"".join(self._body), []
        if url.endswith(b"/chat/completions"):
            self._counters.requests += 1
            wish = read_wish(body)
            if wish.delay_s:
                self._loop.call_later(wish.delay_s, self._complete, wish)
            else:
                self._complete(wish)
        elif url == b"/stats":
            self._send_json(self._counters.report())
        elif url.endswith(b"/models"):
            self._send_json(b'{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench"}]}')
        else:
            self.transport.write(_head(404, b"application/json", 2) + b"{}")

    def _send_json(self, body: bytes) -> None:
        self.transport.write(_head(200, b"application/json", len(body)) + body)

    def _complete(self, wish: Wish) -> None:
        if not self._is_open:
            return
        variant = self._counters.requests % _VARIANTS
        if not wish.streamed:
            self.transport.write(self._answers[variant])
        elif wish.endless:
            self._counters.endless.add(self)
            self.transport.write(_STREAM_HEAD)
            self.written = len(_STREAM_HEAD)
            self._endless = itertools.cycle(self._endless_events)
            self._write_endless()
        else:
            self._write_next(iter(self._streams[variant]), wish.gap_s)

    def _write_next(self, writes: Iterator[bytes], gap_s: float) -> None:
        """Write one event and come back for the next in a later turn: uvloop joins what one turn writes."""
        data = next(writes, None)
        if data is None or not self._is_open:
            return
        self.transport.write(data)
        if gap_s:
            self._loop.call_later(gap_s, self._write_next, writes, gap_s)
        else:
            self._loop.call_soon(self._write_next, writes, gap_s)

    def _write_endless(self) -> None:
        if self._is_paused or not self._is_open or self._endless is None:
            return
        # One chunk for the batch: framing is then a thousandth of what is sent, and bytes in equal bytes out.
        batch = _chunk(b"".join(itertools.islice(self._endless, _BATCH)))
        self.written += len(batch)
        self.transport.write(batch)
        if not self._is_paused:
            self._loop.call_soon(self._write_endless)


async def serve(port: int, *, ready: Callable[[int], None]) -> None:
    """Serve on 127.0.0.1 until cancelled; port 0 takes a free one. `ready` gets the port once it accepts."""
    counters, answers, streams = Counters(), _json_answers(), _streams()
    endless = [_event_data(variant, 1, words=_LONG_WORDS) for variant in range(_VARIANTS)]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Exchange(counters, answers, streams, endless), "127.0.0.1", port, backlog=512
    )
    ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def main(argv: list[str] | None = None) -> int:
    """Run the endpoint and print its port on the first line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--loop",
        choices=["uvloop", "asyncio"],
        default="uvloop",
        help="uvloop costs less; asyncio keeps delays to 0.1 ms, where libuv's clock counts whole milliseconds",
    )
    options = parser.parse_args(argv)
    factory = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(options.port, ready=lambda port: print(port, flush=True)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
