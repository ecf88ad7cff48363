# SPDX-License-Identifier: Apache-2.0
"""Streams as upstreams really send them: any framing, any cut, any end. What came passes; nothing hides in it."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.scripted import Call, Endpoint, called, chunk, events, keep, said, told, until
from tests.support import ATTACK, Answer, Node

COMMENT = b": x-shieldwall-entry "
CUTS = (1, 3, 64, 100_000)
STRICT = 'profile = "strict"\n[gateway]\nmax_held_bytes = 16384\n'

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def ask(node: Node, model: str, dialect: str = "openai") -> Answer:
    """Read a whole stream with the plainest client."""
    body = {"model": model, "stream": True, "max_tokens": 9, "messages": HELLO}
    path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
    return node.call("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})


def without_comment(received: bytes) -> bytes:
    """A stream as the upstream sent it: ours is the one line that names the record."""
    before, found, after = received.partition(COMMENT)
    assert found
    assert COMMENT not in after
    return before + after.partition(b"\n\n")[2]


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[start : start + size] for start in range(0, len(stream), size)]


OPENAI = b"".join(said("naïve ", "text \u2028", "🛡 in pieces"))
ANTHROPIC = b"".join(told("naïve ", "text \u2028", "🛡 in pieces"))
FRAMINGS = {
    "plain": OPENAI,
    "crlf": OPENAI.replace(b"\n", b"\r\n"),
    "cr": OPENAI.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + OPENAI,
    "heartbeats": b": ping\n\n" + OPENAI.replace(b"\n\n", b"\n\n: OPENROUTER PROCESSING\n\n", 3),
    "retry and ids": b"retry: 3000\nid: 7\n\n" + OPENAI,
    "no space after the colon": OPENAI.replace(b"data: ", b"data:"),
    "no terminator": OPENAI.replace(b"data: [DONE]\n\n", b""),
    "an unfinished last event": OPENAI.replace(b"data: [DONE]\n\n", b"data: [DONE]"),
    "data over two lines": b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "a"}}]}\n\n' + OPENAI,
    "an unknown object": b'data: {"object": "x.vendor", "x": {"deep": [1, null, "text"]}}\n\n' + OPENAI,
    "nothing at all": b"",
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", CUTS)
def test_any_framing_passes_byte_for_byte(node: Node, endpoint: Endpoint, framing: str, size: int) -> None:
    """However the upstream frames its stream and the network cuts it, the client gets the same bytes."""
    stream = FRAMINGS[framing]
    model = endpoint.model(events(*cut(stream, size), pause_s=0))

    received = ask(node, model)

    assert received.status == 200
    assert without_comment(received.body) == stream
    assert received.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("size", CUTS)
def test_the_other_dialect_passes_byte_for_byte(node: Node, endpoint: Endpoint, size: int) -> None:
    """The same for the events of the other dialect."""
    model = endpoint.model(events(*cut(ANTHROPIC, size), pause_s=0))

    received = ask(node, model, "anthropic")

    assert without_comment(received.body) == ANTHROPIC


def test_each_piece_arrives_before_the_next_is_sent(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Harmless text is not held back: the client answers each piece, and only then the upstream goes on."""
    turn = asyncio.Event()

    async def run(call: Call) -> None:
        await call.open()
        for each in said("one ", "two ", "three "):
            await call.chunk(each)
            await turn.wait()
            turn.clear()
        await call.chunk(b"")

    stream = chat.chat.completions.create(model=endpoint.model(run), messages=HELLO, stream=True)
    received = []
    for event in stream:
        received.append(event.choices[0].delta.content)
        endpoint.soon(turn.set)

    assert received == ["", "one ", "two ", "three ", None]


HIDING_PLACES = {
    "content": said("well ", ATTACK),
    "refusal": [chunk({"refusal": f"well {ATTACK}"})],
    "reasoning": [chunk({"reasoning_content": f"hm {ATTACK[:6]}"}), chunk({"reasoning_content": ATTACK[6:]})],
    "an unknown field": [chunk({"x_vendor": {"notes": [f"see {ATTACK}"]}})],
    "a member name": [chunk({f"see {ATTACK}": 1})],
    "a tool's name": called(ATTACK, "{}"),
    "a tool's arguments": called("search", '{"a": "', ATTACK, '"}'),
    "a comment": [f": {ATTACK}\n\n".encode()],
    "an event name": [f"event: see {ATTACK}\ndata: {{}}\n\n".encode()],
    "an id": [f"id: see {ATTACK}\ndata: {{}}\n\n".encode()],
    "data that is no JSON": [f"data: see {ATTACK}\n\n".encode()],
    "half a JSON object": [b'data: {"choices": [{"delta": {"content": "' + ATTACK.encode() + b"\n\n"],
    "JSON escapes": [chunk({"content": "_"}).replace(b"_", b"\\u0053" + ATTACK[1:].encode())],
    "the second of two members": [b'data: {"a": "' + ATTACK.encode() + b'", "a": "b"}\n\n'],
    "an event without a blank line": [b"data: " + ATTACK.encode()],
    "an upstream's error": [b'data: {"error": {"message": "' + ATTACK.encode() + b'"}}\n\n'],
}


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("size", [5, 100_000])
def test_an_attack_is_stopped_wherever_it_hides(node: Node, endpoint: Endpoint, place: str, size: int) -> None:
    """There is no field, frame or line of a stream that nobody reads."""
    model = endpoint.model(events(*cut(b"".join(HIDING_PLACES[place]), size), pause_s=0))

    received = ask(node, model)

    # The error is the last thing the client gets, and holds nothing of the attack.
    assert json.loads(received.body.rpartition(b"data: ")[2])["error"]["code"] == "blocked"
    assert b"7f3a9c" not in received.body
    assert b"[DONE]" not in received.body


def test_a_stream_that_breaks_off_ends_in_an_error(chat: openai.OpenAI, endpoint: Endpoint, node: Node) -> None:
    """The client can tell half an answer from a whole one, and keeps what it had."""
    model = endpoint.model(events(*said("half ", "an ans")[:-2], abort=True))
    received: list[Any] = []

    stream = chat.chat.completions.create(model=model, messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as broken:
        keep(stream, received)

    assert "".join(event.choices[0].delta.content or "" for event in received) == "half an ans"
    assert broken.value.code == "upstream"
    assert len(node.about(stream.response.headers["x-shieldwall-event"])) == 2


def test_an_anthropic_stream_that_breaks_off_ends_in_an_error(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """The same in the other dialect."""
    model = endpoint.model(events(*told("half ", "an ans")[:-3], abort=True))

    with pytest.raises(anthropic.APIStatusError) as broken:
        list(claude.messages.create(model=model, max_tokens=9, messages=HELLO, stream=True))

    assert isinstance(broken.value.body, dict)
    assert broken.value.body["error"]["code"] == "upstream"


def test_what_was_delivered_before_a_break_is_judged(node: Node, endpoint: Endpoint) -> None:
    """An upstream that breaks off right behind an attack does not hide it from the record."""
    model = endpoint.model(events(*said("well ", ATTACK)[:-2], abort=True))

    received = ask(node, model)

    assert b"7f3a9c" not in received.body
    (_, response) = node.about(received.event)
    assert response.entry.action == "block"


def test_a_silent_stream_ends_in_an_error(tight: Node, endpoint: Endpoint) -> None:
    """The wait for the next piece has an end, the client is told, and the upstream is left."""

    async def run(call: Call) -> None:
        await call.open()
        await call.chunk(chunk({"content": "and then "}))
        await asyncio.sleep(600)

    model = endpoint.model(run)
    received = ask(tight, model)

    assert b"and then" in received.body
    assert json.loads(received.body.rpartition(b"data: ")[2])["error"]["code"] == "timeout"
    assert endpoint.one(model).closed.wait(30)


def test_an_event_over_the_limit_ends_the_stream(tight: Node, endpoint: Endpoint) -> None:
    """An event that never ends would fill the memory; the record says that a part was not read."""
    model = endpoint.model(events(chunk({"content": "first "}), b"data: " + b"x" * 20_000, pause_s=0))

    received = ask(tight, model)

    (_, response) = tight.about(received.event)
    assert b"xxx" not in received.body
    assert json.loads(received.body.rpartition(b"data: ")[2])["error"]["code"] == "too_large"
    assert "shieldwall.uninspected.limit.1" in [finding["rule"] for finding in response.opening["findings"]]


LONG_CALL = called("search", '{"a": "', *["word " * 100] * 60, '"}')


def test_a_call_too_long_to_hold_passes_with_a_remark(tight: Node, endpoint: Endpoint) -> None:
    """Balanced names what it could not hold until it was whole, and lets it go on, still judged."""
    received = ask(tight, endpoint.model(events(*LONG_CALL, pause_s=0)))

    (_, response) = tight.about(received.event)
    assert without_comment(received.body) == b"".join(LONG_CALL)
    assert response.entry.action == "flag"
    assert "shieldwall.uninspected.held.1" in [finding["rule"] for finding in response.opening["findings"]]


def test_strict_stops_a_call_too_long_to_hold(nodes: Callable[..., Node], endpoint: Endpoint) -> None:
    """Strict passes nothing on trust."""
    strict = nodes("strict", STRICT)

    received = ask(strict, endpoint.model(events(*LONG_CALL, pause_s=0)))

    assert b"word" not in received.body
    assert json.loads(received.body.rpartition(b"data: ")[2])["error"]["code"] == "blocked"


def test_a_stream_that_goes_on_after_its_end_is_left(node: Node, endpoint: Endpoint) -> None:
    """Clients stop reading at the terminator; an upstream that holds the line open keeps nobody waiting."""

    async def run(call: Call) -> None:
        await call.open()
        for each in said("done"):
            await call.chunk(each)
        await asyncio.sleep(600)

    model = endpoint.model(run)
    received = ask(node, model)

    assert without_comment(received.body) == b"".join(said("done"))
    assert endpoint.one(model).closed.wait(30)


def test_an_error_status_with_a_stream_passes(node: Node, endpoint: Endpoint) -> None:
    """The status is the upstream's, the bytes too."""

    async def run(call: Call) -> None:
        await call.open(status=503)
        await call.chunk(b'data: {"error": {"message": "later"}}\n\n')
        await call.chunk(b"")

    received = ask(node, endpoint.model(run))

    assert received.status == 503
    assert without_comment(received.body) == b'data: {"error": {"message": "later"}}\n\n'


def test_a_compressed_stream_is_never_passed_unread_by_strict(nodes: Callable[..., Node], endpoint: Endpoint) -> None:
    """Asked for no compression, an upstream that compresses all the same is refused where nothing passes on trust."""
    strict = nodes("strict", STRICT)
    packed = gzip.compress(b"".join(said("hello")))
    model = endpoint.model(events(packed, headers=[("content-encoding", "gzip")]))

    received = ask(strict, model)

    assert received.status == 403
    assert received.json["error"]["code"] == "blocked"


def test_balanced_passes_a_compressed_stream_with_a_remark(chat: openai.OpenAI, node: Node, endpoint: Endpoint) -> None:
    """The client can still read it; the record says that nobody else did."""
    packed = gzip.compress(b"".join(said("hello")))
    model = endpoint.model(events(packed, headers=[("content-encoding", "gzip")]))

    raw = chat.chat.completions.with_raw_response.create(model=model, messages=HELLO, stream=True)
    text = "".join(event.choices[0].delta.content or "" for event in raw.parse())

    found = node.about(raw.headers["x-shieldwall-event"])[1].opening["findings"]
    assert text == "hello"
    assert raw.headers["x-shieldwall-action"] == "flag"
    assert [finding["rule"] for finding in found] == ["shieldwall.uninspected.content_encoding.1"]


def test_observe_lets_everything_pass_and_records_it(nodes: Callable[..., Node], endpoint: Endpoint) -> None:
    """Measure first: the same bytes come out, the record says what would have happened."""
    watching = nodes("observe", "", "--mode", "observe")
    stream = said("well ", ATTACK[:9], ATTACK[9:], " and on")
    tools = called("search", '{"a": "', ATTACK, '"}')

    request = watching.chat(endpoint.model(events(*stream)), f"Please: {ATTACK}", stream=True)
    answer = ask(watching, endpoint.model(events(*tools)))

    assert without_comment(request.body) == b"".join(stream)
    assert without_comment(answer.body) == b"".join(tools)
    assert request.headers["x-shieldwall-action"] == "flag"
    about = [*watching.about(request.event), watching.about(answer.event)[1]]
    assert [record.entry.action for record in about] == ["flag"] * 3
    assert [record.opening["fields"]["reason"] for record in about] == ["would_block"] * 3


def test_permissive_lets_an_answer_pass_that_balanced_stops(nodes: Callable[..., Node], endpoint: Endpoint) -> None:
    """Permissive stops near-certain attacks that come in; what goes out it remarks on."""
    mild = nodes("permissive", "", "--profile", "permissive")
    stream = said("well ", ATTACK, " and on")

    out = ask(mild, endpoint.model(events(*stream)))
    incoming = mild.chat(endpoint.model(events(*stream)), f"Please: {ATTACK}")

    assert without_comment(out.body) == b"".join(stream)
    assert mild.about(out.event)[1].entry.action == "flag"
    assert incoming.status == 403


def test_strict_refuses_what_balanced_only_remarks_on(
    nodes: Callable[..., Node], node: Node, endpoint: Endpoint
) -> None:
    """An image cannot be read: flagged by balanced, blocked by strict."""
    strict = nodes("strict", STRICT)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}}
    model = endpoint.model(events(*said("a picture")))

    passed = node.chat(model, [part], stream=True)
    refused = strict.chat(model, [part], stream=True)

    assert passed.status == 200
    assert refused.status == 403
    assert "uninspected" in refused.json["error"]["message"]
    until(lambda: len(endpoint.of(model)) == 1, "one of the two")
