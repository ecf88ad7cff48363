# SPDX-License-Identifier: Apache-2.0
"""Whoever leaves is noticed: nobody works for a client that is gone, no memory fills for one that does not read."""

import asyncio
import socket
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Call, Endpoint, answer, chunk, completion, events, said, told, until
from tests.support import Node

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
_LONG_S = 30.0
"""Far more than anything here takes; a test that waits this long has failed."""


async def silence(call: Call) -> None:
    await asyncio.sleep(600)


async def endless(call: Call) -> None:
    await call.open()
    while True:
        await call.chunk(chunk({"content": "and on "}))
        await asyncio.sleep(0.001)


async def torrent(call: Call) -> None:
    await call.open()
    piece = chunk({"content": "and on " * 1_000})
    while True:
        await call.chunk(piece)


def request(node: Node, model: str, *, stream: bool) -> bytes:
    text = f'{{"model": "{model}", "stream": {str(stream).lower()}, "messages": [{{"role": "user", "content": "x"}}]}}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {node.key}\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def test_a_client_that_leaves_while_it_waits_ends_the_upstreams_work(node: Node, endpoint: Endpoint) -> None:
    """A model that nobody waits for any more is told to stop; the request's record stands."""
    model = endpoint.model(silence)
    with socket.create_connection(node.address, timeout=_LONG_S) as client:
        client.sendall(request(node, model, stream=False))
        call = endpoint.one(model)

    assert call.closed.wait(_LONG_S)
    (record,) = [record for record in node.records() if record.entry.model == model]
    assert record.entry.type is EntryType.DECISION_REQUEST


def test_a_client_that_leaves_a_stream_ends_the_upstreams_work(node: Node, endpoint: Endpoint) -> None:
    """What it had until then is judged and recorded."""
    model = endpoint.model(endless)
    with socket.create_connection(node.address, timeout=_LONG_S) as client:
        client.sendall(request(node, model, stream=True))
        while b"and on" not in client.recv(65_536):
            pass
        call = endpoint.one(model)

    assert call.closed.wait(_LONG_S)
    until(
        lambda: (
            [record.entry.type for record in node.records() if record.entry.model == model]
            == [EntryType.DECISION_REQUEST, EntryType.DECISION_RESPONSE]
        ),
        "the record of the answer that was left",
    )


def test_the_stock_clients_timeout_ends_the_upstreams_work(node: Node, endpoint: Endpoint) -> None:
    """A client that gives up closes its connection; the upstream's is closed in turn."""
    model = endpoint.model(silence)
    wait = httpx2.Timeout(30, read=0.3)
    with (
        openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0, timeout=wait) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model=model, messages=HELLO)

    assert endpoint.one(model).closed.wait(_LONG_S)


def test_closing_a_stream_early_ends_the_upstreams_work(
    chat: openai.OpenAI, claude: anthropic.Anthropic, endpoint: Endpoint
) -> None:
    """`stream.close()` of either client reaches the model."""

    async def endless_message(call: Call) -> None:
        await call.open()
        for each in told("and ")[:4]:
            await call.chunk(each)
        while True:
            await call.chunk(told("on ")[3])
            await asyncio.sleep(0.001)

    first, second = endpoint.model(endless), endpoint.model(endless_message)
    openai_stream = chat.chat.completions.create(model=first, messages=HELLO, stream=True)
    next(iter(openai_stream))
    openai_stream.close()
    anthropic_stream = claude.messages.create(model=second, max_tokens=9, messages=HELLO, stream=True)
    next(iter(anthropic_stream))
    anthropic_stream.close()

    assert endpoint.one(first).closed.wait(_LONG_S)
    assert endpoint.one(second).closed.wait(_LONG_S)


async def test_a_cancelled_task_ends_the_upstreams_work(node: Node, endpoint: Endpoint) -> None:
    """The async client's way to leave."""
    model = endpoint.model(silence)
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0) as client:
        task = asyncio.create_task(client.chat.completions.create(model=model, messages=HELLO))
        await asyncio.to_thread(endpoint.one, model)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await asyncio.to_thread(endpoint.one(model).closed.wait, _LONG_S)


def test_a_client_that_leaves_before_its_request_is_whole_costs_nothing(node: Node, endpoint: Endpoint) -> None:
    """Nothing is forwarded, and the node goes on."""
    model = endpoint.model(answer(completion("fine")))
    with socket.create_connection(node.address, timeout=_LONG_S) as client:
        client.sendall(request(node, model, stream=False)[:-5])

    assert node.chat(endpoint.model(answer(completion("next")))).status == 200
    assert endpoint.of(model) == []


def test_an_upstream_that_leaves_is_told_to_the_client(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Before the answer as a 502, within it as an error event."""

    async def gone(call: Call) -> None:
        call.abort()

    with pytest.raises(openai.InternalServerError) as before:
        chat.chat.completions.create(model=endpoint.model(gone), messages=HELLO)
    stream = endpoint.model(events(*said("half")[:-2], abort=True))
    with pytest.raises(openai.APIError) as within:
        list(chat.chat.completions.create(model=stream, messages=HELLO, stream=True))

    assert before.value.status_code == 502
    assert before.value.code == "upstream"
    assert within.value.code == "upstream"


def test_a_client_that_does_not_read_stops_the_upstream(node: Node, endpoint: Endpoint) -> None:
    """Back-pressure goes all the way: what waits is bounded by the buffers on the way, however long the stream."""
    model = endpoint.model(torrent)
    with socket.create_connection(node.address, timeout=_LONG_S) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(request(node, model, stream=True))
        call = endpoint.one(model)
        until(lambda: _settled(call), "the upstream to be slowed down")
        waiting = call.sent

        # Kernel buffers on two connections and ours; a node without back-pressure takes hundreds of megabytes a second.
        assert 0 < waiting < 32_000_000
        # And when the client reads again, the stream goes on.
        read = 0
        while read < waiting:
            read += len(client.recv(1 << 20))
        until(lambda: call.sent > waiting, "the upstream to go on")
    assert call.closed.wait(_LONG_S)


def _settled(call: Call) -> bool:
    """Whether the endpoint could send nothing for half a second."""
    before = call.sent
    time.sleep(0.5)
    return 0 < before == call.sent


def test_a_client_that_never_reads_is_left(tight: Node, endpoint: Endpoint) -> None:
    """After the stated wait the connection is given up, and with it the upstream's."""
    model = endpoint.model(torrent)
    with socket.create_connection(tight.address, timeout=_LONG_S) as client:
        client.sendall(request(tight, model, stream=True))

        assert endpoint.one(model).closed.wait(_LONG_S)
    until(
        lambda: EntryType.DECISION_RESPONSE in [r.entry.type for r in tight.records() if r.entry.model == model],
        "the record of what it had",
    )


def test_many_that_leave_at_once_leave_nothing_behind(node: Node, endpoint: Endpoint) -> None:
    """Thirty clients go away in mid-stream; every connection to the upstream is closed, and the node answers."""
    model = endpoint.model(endless)
    clients = []
    for _ in range(30):
        client = socket.create_connection(node.address, timeout=_LONG_S)
        client.sendall(request(node, model, stream=True))
        clients.append(client)
    until(lambda: len(endpoint.of(model)) == 30, "thirty requests")
    for client in clients:
        client.close()

    until(lambda: all(call.closed.is_set() for call in endpoint.of(model)), "thirty closed connections")
    assert node.chat("demo").status == 200
