# SPDX-License-Identifier: Apache-2.0
"""A load client that costs little and believes nothing: every answer must be whole, or the run counts for nothing.

N keep-alive connections send a fixed number of requests, each with its own prompt of about 1 KB, so that no cache
answers for the work. Times are taken when bytes are handed to and come from the socket: total, and the first content
of a stream.
"""

import argparse
import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

import httptools
import msgspec
import uvloop

from bench.gateway.upstream import EVENTS
from bench.report import BenchError, percentile

__all__ = ["WORDS", "Client", "LoadError", "Sample", "Summary", "bodies", "run_load"]

WORDS: Final = (
    "a about after all along also and another apple are as at autumn bake balance basket beach because bicycle blue "
    "boat book bread bridge bright bring build butter by can careful chapter children city clear cloud coffee "
    "colour corner cotton could country cup day deep describe detail dinner draw early evening explain family farm "
    "few field find first fish flower for forest friend from garden gentle glass go good green happy harbour have "
    "help hill history holiday home house how ice in island it journey kind kitchen lake language large later leaf "
    "learn letter light list little long look lunch make many map market may meadow meal month more morning "
    "mountain much music name near new night north note of old on open or orange orchard other our paint paper park "
    "path pencil people photo piano picture place plan plant please pond quick quiet rain read recipe red rest rice "
    "river road room rose salt sand school sea season second seed sentence short sing sky slow small snow some song "
    "soup south spring square station stone story street summer sun table tea the their then three through time to "
    "together town train tree trip two under valley very village visit walk warm water weather week well west when "
    "where which wind window winter with wood word work write year yellow"
).split()

_TEXT: Final = re.compile(rb'"content":\s?"[^"]')
"""A delta that carries text; an empty one is not a first token."""
_DATA: Final = re.compile(rb"(?:^|\n)data: ?\{")
_DONE: Final = b"data: [DONE]"
_TEXT_EVENTS: Final = EVENTS - 1
"""The upstream's last event carries no text."""


class LoadError(BenchError):
    """The proxy did not answer as it must; no figure follows from such a run."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One request, as the client saw it. Times in nanoseconds."""

    total_ns: int
    first_ns: int
    """To the first content of a stream; for JSON the same as `total_ns`."""
    reads: int
    """How often the socket gave bytes: near the number of events when nothing was joined on the way."""


class Summary(msgspec.Struct, frozen=True):
    """What one run of load measured."""

    wall_s: float
    samples: list[Sample]

    @property
    def per_second(self) -> float:
        """Requests per second of wall time."""
        return len(self.samples) / self.wall_s

    def total_ms(self, share: float) -> float:
        """Percentile of the total time, milliseconds."""
        return percentile([sample.total_ns for sample in self.samples], share) / 1e6

    def first_ms(self, share: float) -> float:
        """Percentile of the time to the first content, milliseconds."""
        return percentile([sample.first_ns for sample in self.samples], share) / 1e6


def bodies(count: int, *, seed: int, streamed: bool = False, wish: str = "", prompt_bytes: int = 1024) -> list[bytes]:
    """Chat requests with different, harmless prompts.

    Args:
        count: How many.
        seed: The same seed gives the same bodies; runs use different ones.
        streamed: Whether to ask for events.
        wish: Options for the upstream double, such as `delay_ms=50`; they ride at the end of the prompt.
        prompt_bytes: Length of the prompt, bytes.
    """
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        text = " ".join(chance.choices(WORDS, k=prompt_bytes // 4))[: prompt_bytes - len(wish) - 1]
        messages = [
            {"role": "system", "content": "You are a helpful assistant for a travel magazine."},
            {"role": "user", "content": f"{text} {wish}" if wish else text},
        ]
        body = {"model": "bench", "messages": messages, "temperature": 0.7, "max_tokens": 256, "stream": streamed}
        made.append(msgspec.json.encode(body))
    return made


class Client(asyncio.Protocol):
    """One keep-alive connection; `send` a body, and `on_done` hears of the answer or of the failure."""

    def __init__(self, *, host_port: str, key: str, on_done: Callable[["Client", Sample | LoadError], None]) -> None:
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host_port}\r\nauthorization: Bearer {key}\r\n"
            "accept: application/json\r\ncontent-type: application/json\r\nuser-agent: bench/1\r\ncontent-length: "
        ).encode()
        self._on_done = on_done
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._streamed = False
        self._start = self._first = self._reads = 0
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports have the methods but not the base class, so `isinstance` would say no.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if self._is_waiting:
            self._finish(LoadError(f"connection closed before the answer was complete: {exc}"))

    def send(self, body: bytes, *, streamed: bool) -> None:
        """Send one request. The one before must be done."""
        if self._transport is None or self._transport.is_closing():
            self._finish(LoadError("connection is closed"))
            return
        self._body, self._streamed, self._first, self._reads, self._is_waiting = [], streamed, 0, 0, True
        message = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        self._start = time.perf_counter_ns()
        self._transport.write(message)

    def close(self) -> None:
        """Close the connection; `on_done` is not called."""
        self._is_waiting = False
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._reads += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(LoadError(f"answer is not HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        """Parser's callback. Text is looked for only until the first was seen; the rest is checked at the end."""
        self._body.append(body)
        if self._streamed and not self._first and _TEXT.search(b"".join(self._body)):
            self._first = time.perf_counter_ns()

    def on_message_complete(self) -> None:
        """Parser's callback: the answer is here."""
        end = time.perf_counter_ns()
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        body = b"".join(self._body)
        problem = _problem(status, body, streamed=self._streamed)
        if not keep:
            # A parser that has seen the last message of a connection refuses another.
            problem = problem or "the server closes the connection after an answer"
        if problem:
            self._finish(LoadError(problem))
            return
        first = self._first or end
        self._finish(Sample(total_ns=end - self._start, first_ns=first - self._start, reads=self._reads))

    def _finish(self, outcome: Sample | LoadError) -> None:
        self._is_waiting = False
        self._on_done(self, outcome)


def _problem(status: int, body: bytes, *, streamed: bool) -> str:
    """What is wrong with an answer; empty when it is whole."""
    if status != 200:
        return f"status {status}: {body[:300].decode(errors='replace')}"
    if not streamed:
        return "" if b'"choices"' in body and b'"content"' in body else "the answer is no completion"
    texts, events = len(_TEXT.findall(body)), len(_DATA.findall(body))
    if texts != _TEXT_EVENTS or _DONE not in body:
        return f"a stream with {events} events, {texts} of them with text where {_TEXT_EVENTS} were sent"
    return ""


async def run_load(
    port: int, requests: Iterable[bytes], *, key: str, connections: int, streamed: bool, limit_s: float = 60.0
) -> Summary:
    """Send all requests over so many connections, each sending its next when its last was answered.

    Raises:
        LoadError: An answer was not whole, or the limit is over; connections are closed.
    """
    loop = asyncio.get_running_loop()
    queue, samples = deque(requests), list[Sample]()
    expected, done = len(queue), loop.create_future()

    def on_done(client: Client, outcome: Sample | LoadError) -> None:
        if done.done():
            return
        if isinstance(outcome, LoadError):
            done.set_exception(outcome)
            return
        samples.append(outcome)
        if queue:
            client.send(queue.popleft(), streamed=streamed)
        elif len(samples) == expected:
            done.set_result(None)

    clients = [await connect(port, key=key, on_done=on_done) for _ in range(min(connections, expected))]
    start = time.perf_counter_ns()
    try:
        for client in clients:
            client.send(queue.popleft(), streamed=streamed)
        await asyncio.wait_for(done, limit_s)
    except TimeoutError:
        raise LoadError(f"{len(samples)} of {expected} answers in {limit_s:g} s") from None
    finally:
        for client in clients:
            client.close()
    return Summary(wall_s=(time.perf_counter_ns() - start) / 1e9, samples=samples)


async def connect(port: int, *, key: str, on_done: Callable[[Client, Sample | LoadError], None]) -> Client:
    """Open one connection to 127.0.0.1."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Client(host_port=f"127.0.0.1:{port}", key=key, on_done=on_done), "127.0.0.1", port
    )
    return client


def main(argv: list[str] | None = None) -> int:
    """Put load on a port and print what came back."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--key", default="none-needed", help="sent as Bearer token")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--stream", action="store_true", help="ask for events")
    parser.add_argument("--wish", default="", help="options for the upstream double, such as delay_ms=50")
    options = parser.parse_args(argv)
    made = bodies(options.requests, seed=1, streamed=options.stream, wish=options.wish)
    try:
        summary = uvloop.run(
            run_load(options.port, made, key=options.key, connections=options.connections, streamed=options.stream)
        )
    except LoadError as error:
        parser.exit(2, f"load: error: {error}\n")
    reads = sum(sample.reads for sample in summary.samples) / len(summary.samples)
    print(f"{summary.per_second:,.0f} requests/s, {reads:.1f} reads each")
    print(f"total p50 {summary.total_ms(0.5):.3f} ms, p99 {summary.total_ms(0.99):.3f} ms")
    print(f"first p50 {summary.first_ms(0.5):.3f} ms, p99 {summary.first_ms(0.99):.3f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
