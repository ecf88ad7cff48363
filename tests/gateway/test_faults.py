# SPDX-License-Identifier: Apache-2.0
"""Upstreams that are away, silent, broken, endless or speak in another form: the client is told, nothing slips by."""

import asyncio
import gzip
import json
from typing import Any

import openai
import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Call, Endpoint, answer, completion
from tests.support import ATTACK, Node

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def test_an_upstream_nobody_listens_at(node: Node) -> None:
    """502, worth a retry, in either dialect; the request's record stands."""
    for path in (CHAT, MESSAGES):
        body = {"model": "nobody", "max_tokens": 9, "messages": HELLO}
        received = node.call("POST", path, json.dumps(body).encode())

        error = received.json["error"]
        (record,) = node.about(received.event)
        assert received.status == 502
        assert error["code"] == "upstream"
        assert "cannot be reached" in error["message"]
        assert "127.0.0.1" not in error["message"]
        assert received.headers["x-should-retry"] == "true"
        assert record.index == int(received.headers["x-shieldwall-entry"])
        assert record.entry.type == EntryType.DECISION_REQUEST


def test_an_upstream_that_never_answers(tight: Node, endpoint: Endpoint) -> None:
    """504 after the stated wait, and the upstream is left."""

    async def silence(call: Call) -> None:
        await asyncio.sleep(600)

    model = endpoint.model(silence)
    received = tight.chat(model)

    assert received.status == 504
    assert received.json["error"]["code"] == "timeout"
    assert received.headers["x-should-retry"] == "true"
    assert endpoint.one(model).closed.wait(30)


def test_an_upstream_that_falls_silent_in_its_answer(tight: Node, endpoint: Endpoint) -> None:
    """Half an answer is no answer: 504, and nothing of the half."""

    async def half(call: Call) -> None:
        await call.open([("content-type", "application/json")])
        await call.chunk(completion("half")[:40])
        await asyncio.sleep(600)

    received = tight.chat(endpoint.model(half))

    assert received.status == 504
    assert b"c-1" not in received.body


def test_an_upstream_that_breaks_off_in_its_answer(node: Node, endpoint: Endpoint) -> None:
    """A length that is not kept, or a connection that dies: 502, and nothing of the half."""

    async def short(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
        call.abort()

    async def at_once(call: Call) -> None:
        call.abort()

    async def nonsense(call: Call) -> None:
        await call.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        call.abort()

    for script in (short, at_once, nonsense):
        received = node.chat(endpoint.model(script))

        assert received.status == 502
        assert received.json["error"]["code"] == "upstream"


def test_an_answer_over_the_limit_is_refused(tight: Node, endpoint: Endpoint) -> None:
    """An answer that never ends would fill the memory; the upstream is left."""

    async def endless(call: Call) -> None:
        await call.open([("content-type", "application/json")])
        while True:
            await call.chunk(b" " * 8_192)

    model = endpoint.model(endless)
    received = tight.chat(model)

    call = endpoint.one(model)
    assert received.status == 502
    assert "65536" in received.json["error"]["message"]
    assert call.closed.wait(30)
    assert call.sent < 20_000_000


def test_an_error_page_passes_as_it_is(node: Node, endpoint: Endpoint) -> None:
    """A load balancer's HTML keeps its status; it is judged as the text it is."""
    page = b"<html><body><h1>502 Bad Gateway</h1></body></html>"

    received = node.chat(endpoint.model(answer(page, 502, [("content-type", "text/html")])))
    hostile = node.chat(endpoint.model(answer(page + ATTACK.encode(), 502, [("content-type", "text/html")])))

    assert (received.status, received.body) == (502, page)
    assert received.headers["content-type"] == "text/html"
    assert hostile.status == 403
    assert ATTACK.encode() not in hostile.body


@pytest.mark.parametrize(
    "text", [b'{"choices": [', b"", b"null", b'"text"', b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 3_000]
)
def test_an_answer_that_is_no_json_passes_with_a_remark(node: Node, endpoint: Endpoint, text: bytes) -> None:
    """Bytes pass untouched; where two readers could read two things, the record says so."""
    received = node.chat(endpoint.model(answer(text)))

    readable = text in (b"", b"null", b'"text"')
    assert (received.status, received.body) == (200, text)
    assert received.headers["x-shieldwall-action"] == ("allow" if readable else "flag")


@pytest.mark.parametrize(
    "text",
    [
        b'{"choices": [{"message": {"content": "see %s',
        b'{"a": "see %s", "a": 2}',
        b'"see %s"',
        b"see %s",
        b'{"error": {"message": "see %s"}}',
    ],
)
def test_an_attack_in_an_answer_that_is_no_json_is_refused(node: Node, endpoint: Endpoint, text: bytes) -> None:
    """What a parser refuses a client may still show."""
    received = node.chat(endpoint.model(answer(text % ATTACK.encode())))

    assert received.status == 403
    assert b"7f3a9c" not in received.body


def test_a_compressed_answer_passes_with_a_remark(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """The upstream compresses although it was asked not to: the client can read it, we could not."""
    model = endpoint.model(answer(gzip.compress(completion("packed")), headers=[("content-encoding", "gzip")]))

    raw = chat.chat.completions.with_raw_response.create(model=model, messages=HELLO)

    assert raw.parse().choices[0].message.content == "packed"
    assert raw.headers["x-shieldwall-action"] == "flag"


def test_a_redirect_is_not_followed(node: Node, endpoint: Endpoint) -> None:
    """What is connected to stands in the configuration alone."""
    model = endpoint.model(answer(b"{}", 307, [("location", f"{endpoint.url}/v1/elsewhere")]))

    received = node.chat(model)

    assert received.status == 307
    assert [call.target for call in endpoint.of(model)] == [CHAT]
