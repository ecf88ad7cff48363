# SPDX-License-Identifier: Apache-2.0
"""The stock `anthropic` client through the gateway: everything works as without it, only attacks do not pass."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Endpoint, answer, events, keep, message, reply, told, until, used
from tests.support import ATTACK, SECRET, Node

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
HOSTILE: list[Any] = [{"role": "user", "content": [{"type": "text", "text": f"Please: {ATTACK}"}]}]
TOOLS: list[Any] = [{"name": "search", "input_schema": {"type": "object"}}]
TEXT = {"type": "text", "text": "fine", "citations": None}
COMMENT = b": x-shieldwall-entry "
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.fixture
def wire(node: Node) -> Iterator[tuple[anthropic.Anthropic, list[httpx2.Request]]]:
    """The stock client, and the requests it really sent."""
    sent: list[httpx2.Request] = []
    http = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with anthropic.Anthropic(base_url=node.url, api_key=node.key, max_retries=0, http_client=http) as client:
        yield client, sent


def text_of(stream: Any) -> str:
    return "".join(
        event.delta.text for event in stream if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )


def test_the_demo_answers_whole(claude: anthropic.Anthropic) -> None:
    """The first request of a new user works without an account."""
    done = claude.messages.create(model="demo", max_tokens=64, messages=HELLO)

    assert done.content[0].type == "text"
    assert "You said: Hello" in done.content[0].text


def test_the_demo_answers_in_a_stream(claude: anthropic.Anthropic) -> None:
    """The client's own stream helper assembles the same message."""
    with claude.messages.stream(model="demo", max_tokens=64, messages=HELLO) as stream:
        text = stream.get_final_text()

    assert "You said: Hello" in text


def test_the_demo_uses_the_tool_it_is_given(claude: anthropic.Anthropic) -> None:
    """A tool use, its result and the answer make the usual three steps."""
    first = claude.messages.create(model="demo", max_tokens=64, messages=HELLO, tools=TOOLS)
    (block,) = first.content
    assert block.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "42 results"}]}
    turn = [*HELLO, {"role": "assistant", "content": [block.model_dump(exclude_none=True)]}]
    turn.append({"role": "user", "content": [result]})

    second = claude.messages.create(model="demo", max_tokens=64, messages=turn, tools=TOOLS)

    assert second.content[0].type == "text"
    assert second.content[0].text == "The tool says: 42 results"


def test_models_are_listed_and_one_is_found(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """The list has the shape this client pages through."""
    endpoint.models = ["up-listed", "elsewhere"]

    names = [model.id for model in claude.models.list()]

    assert {"demo", "nobody", "up-listed"} <= set(names)
    assert "elsewhere" not in names
    assert claude.models.retrieve("up-listed").id == "up-listed"
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("elsewhere")


def test_a_whole_exchange_passes_byte_for_byte(
    wire: tuple[anthropic.Anthropic, list[httpx2.Request]], endpoint: Endpoint
) -> None:
    """What the client sent is what the upstream got, what the upstream sent is what the client got."""
    client, sent = wire
    body = reply({"type": "text", "text": "naïve \u2028 🛡 \\"}, {"type": "x_new", "x_field": {"deep": [1, None]}})
    model = endpoint.model(answer(body, headers=[("request-id", "req_7")]))

    response = client.messages.with_raw_response.create(
        model=model, max_tokens=64, messages=HELLO, system="Be brief: é.", extra_body={"x_vendor": 1e-7}
    )

    assert endpoint.one(model).body == sent[0].content
    assert response.http_response.content == body
    assert response.headers["request-id"] == "req_7"


def test_a_stream_passes_byte_for_byte(
    wire: tuple[anthropic.Anthropic, list[httpx2.Request]], endpoint: Endpoint
) -> None:
    """Nothing is rewritten in a stream; one comment of ours stands before its last event."""
    client, sent = wire
    chunks = told("naïve ", "text ", "\u2028🛡")
    model = endpoint.model(events(*chunks))

    with client.messages.with_streaming_response.create(
        model=model, max_tokens=64, messages=HELLO, stream=True
    ) as response:
        received = b"".join(response.iter_bytes())

    ours = [part for part in received.split(b"\n\n") if part.startswith(COMMENT)]
    assert len(ours) == 1
    assert received.replace(ours[0] + b"\n\n", b"") == b"".join(chunks)
    assert received.endswith(ours[0] + b"\n\n" + chunks[-1])
    assert endpoint.one(model).body == sent[0].content


@pytest.mark.parametrize("credential", ["api_key", "auth_token"])
def test_both_ways_to_send_a_key_work(node: Node, endpoint: Endpoint, credential: str) -> None:
    """`x-api-key` or Bearer: the upstream gets the provider's key in its own header, and never ours."""
    model = endpoint.model(answer(reply(TEXT)))
    other = {"api_key": "auth_token", "auth_token": "api_key"}[credential]

    with anthropic.Anthropic(base_url=node.url, max_retries=0, **{credential: node.key, other: None}) as client:
        client.messages.create(model=model, max_tokens=64, messages=HELLO)

    call = endpoint.one(model)
    assert call.header("x-api-key") == SECRET
    assert call.header("authorization") is None
    assert call.header("anthropic-version")
    assert node.key not in repr(call.headers)


def test_every_answer_names_its_event_and_its_record(
    claude: anthropic.Anthropic, node: Node, endpoint: Endpoint
) -> None:
    """The headers lead to the record of the request; the record of the response is there before the last byte."""
    model = endpoint.model(answer(reply(TEXT)))

    headers = claude.messages.with_raw_response.create(model=model, max_tokens=64, messages=HELLO).headers

    about = node.about(headers["x-shieldwall-event"])
    assert [record.entry.type for record in about] == [EntryType.DECISION_REQUEST, EntryType.DECISION_RESPONSE]
    assert about[0].index == int(headers["x-shieldwall-entry"])
    assert headers["x-shieldwall-action"] == "allow"
    assert about[0].opening["fields"]["dialect"] == "anthropic"


def test_an_attack_is_refused_once_and_never_retried(node: Node, endpoint: Endpoint) -> None:
    """The client raises PermissionDeniedError at once: one request to the gateway, none to the upstream."""
    model = endpoint.model(answer(reply(TEXT)))
    sent: list[httpx2.Request] = []
    http = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with (
        anthropic.Anthropic(base_url=node.url, api_key=node.key, http_client=http) as client,
        pytest.raises(anthropic.PermissionDeniedError) as refused,
    ):
        client.messages.create(model=model, max_tokens=64, messages=HOSTILE)

    error = refused.value
    (record,) = [record for record in node.records() if record.entry.model == model]
    assert len(sent) == 1
    assert endpoint.of(model) == []
    assert isinstance(error.body, dict)
    assert error.body["error"]["type"] == "permission_error"
    assert error.body["error"]["code"] == "blocked"
    assert "injection" in error.message
    assert "selftest" not in error.message
    assert record.entry.event == error.response.headers["x-shieldwall-event"] == error.body["request_id"]
    assert record.entry.action == "block"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_result", "tool_use_id": "t", "content": f"page: {ATTACK}"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": f"page: {ATTACK}"}]},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": f"page: {ATTACK}"}},
    ],
)
def test_an_attack_from_outside_is_refused(
    claude: anthropic.Anthropic, endpoint: Endpoint, block: dict[str, Any]
) -> None:
    """Tool results and documents are read wherever they stand."""
    model = endpoint.model(answer(reply(TEXT)))
    turn: list[Any] = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}]
    turn.append({"role": "user", "content": [block]})

    with pytest.raises(anthropic.PermissionDeniedError):
        claude.messages.create(model=model, max_tokens=64, messages=turn)

    assert endpoint.of(model) == []


def test_an_attack_in_an_answer_is_refused(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """A whole answer is judged before any of it leaves."""
    model = endpoint.model(answer(reply(TEXT, {"type": "text", "text": f"Sure. {ATTACK}"})))

    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        claude.messages.create(model=model, max_tokens=64, messages=HELLO)

    assert b"SHIELDWALL" not in refused.value.response.content


@pytest.mark.parametrize("cut", [1, 7, len(ATTACK)])
def test_a_stream_is_stopped_in_the_middle(claude: anthropic.Anthropic, endpoint: Endpoint, cut: int) -> None:
    """What came before the attack was delivered, nothing of the attack is, and the upstream is left."""
    pieces = ["All is ", "well. ", *(ATTACK[at : at + cut] for at in range(0, len(ATTACK), cut)), " and on "]
    model = endpoint.model(events(*told(*pieces)[:-3], *told(*["more "] * 2000)[3:], pause_s=0.001))
    received: list[Any] = []

    with pytest.raises(anthropic.APIStatusError) as stopped:
        keep(claude.messages.create(model=model, max_tokens=64, messages=HELLO, stream=True), received)

    assert text_of(received) == "All is well. "
    call = endpoint.one(model)
    assert isinstance(stopped.value.body, dict)
    assert stopped.value.body["error"]["code"] == "blocked"
    assert call.closed.wait(30)
    assert not call.done.is_set()


def test_nothing_of_a_blocked_tool_use_is_delivered(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """Half a call could already be run by a hasty agent."""
    model = endpoint.model(events(*used("search", '{"query": "weather", "', 'note": "', ATTACK[:9], ATTACK[9:], '"}')))
    received: list[Any] = []

    with pytest.raises(anthropic.APIStatusError):
        keep(claude.messages.create(model=model, max_tokens=64, messages=HELLO, tools=TOOLS, stream=True), received)

    assert {event.type for event in received} <= {"message_start"}


def test_a_tool_use_arrives_only_when_it_is_whole(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """While its input is still coming nothing of it is out; then all of it is, unchanged."""
    chunks = used("search", '{"que', 'ry": "wea', 'ther"}')
    gate = asyncio.Event()

    async def run(call: Any) -> None:
        await call.open()
        for each in chunks[:-3]:
            await call.chunk(each)
        await gate.wait()
        for each in [*chunks[-3:], b""]:
            await call.chunk(each)

    model = endpoint.model(run)
    stream = iter(claude.messages.create(model=model, max_tokens=64, messages=HELLO, tools=TOOLS, stream=True))
    first = next(stream)
    endpoint.soon(gate.set)
    rest = list(stream)

    assert first.type == "message_start"
    pieces = [event.delta.partial_json for event in rest if event.type == "content_block_delta"]
    assert "".join(pieces) == '{"query": "weather"}'


def test_an_error_in_mid_stream_passes(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """The provider's own error event reaches the client as the provider wrote it."""
    chunks = told("fine")
    error = b"event: error\ndata: " + json.dumps(OVERLOADED).encode() + b"\n\n"
    model = endpoint.model(events(*chunks[:4], error))

    with pytest.raises(anthropic.APIStatusError) as failed:
        list(claude.messages.create(model=model, max_tokens=64, messages=HELLO, stream=True))

    assert failed.value.body == OVERLOADED


def test_an_overloaded_provider_is_asked_again(node: Node, endpoint: Endpoint) -> None:
    """529 and its headers pass, and the client's own retry then succeeds."""

    async def run(call: Any) -> None:
        first = len(endpoint.of(model)) == 1
        await (answer(OVERLOADED, 529, [("retry-after-ms", "10")]) if first else answer(reply(TEXT)))(call)

    model = endpoint.model(run)
    with anthropic.Anthropic(base_url=node.url, api_key=node.key, max_retries=1) as client:
        done = client.messages.create(model=model, max_tokens=64, messages=HELLO)

    assert done.content[0].type == "text"
    assert len(endpoint.of(model)) == 2


def test_thinking_passes_and_sealed_thinking_is_remarked_on(
    claude: anthropic.Anthropic, node: Node, endpoint: Endpoint
) -> None:
    """Thinking is read like text; what the provider encrypted is named `uninspected`."""
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
        TEXT,
    ]
    model = endpoint.model(answer(reply(*blocks)))

    raw = claude.messages.with_raw_response.create(model=model, max_tokens=64, messages=HELLO)

    found = node.about(raw.headers["x-shieldwall-event"])[1].opening["findings"]
    assert raw.parse().content[0].type == "thinking"
    assert raw.headers["x-shieldwall-action"] == "flag"
    assert [finding["category"] for finding in found] == ["uninspected"]


def test_a_thinking_stream_is_stopped(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """Thinking is no way around."""
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in ("hm ", ATTACK[:9], ATTACK[9:])]
    model = endpoint.model(events(*message({"type": "thinking", "thinking": "", "signature": ""}, *deltas)))

    with pytest.raises(anthropic.APIStatusError) as stopped:
        list(claude.messages.create(model=model, max_tokens=64, messages=HELLO, stream=True))

    assert isinstance(stopped.value.body, dict)
    assert stopped.value.body["error"]["code"] == "blocked"


def test_token_counting_is_not_forwarded_yet(claude: anthropic.Anthropic, endpoint: Endpoint) -> None:
    """The route is not guarded, so it is not open either; the error speaks the client's dialect."""
    before = len(endpoint.calls)

    with pytest.raises(anthropic.NotFoundError) as refused:
        claude.messages.count_tokens(model="up-1", messages=HELLO)

    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["code"] == "unknown_route"
    assert len(endpoint.calls) == before


async def test_the_async_client_works_the_same(node: Node, endpoint: Endpoint) -> None:
    """Whole, streamed, blocked and stopped, through the other transport of the client."""
    whole, stream = endpoint.model(answer(reply(TEXT))), endpoint.model(events(*told("piece ", "by piece")))
    stopped = endpoint.model(events(*told("well ", ATTACK)))
    async with anthropic.AsyncAnthropic(base_url=node.url, api_key=node.key, max_retries=0) as client:
        create = client.messages.create
        first = await create(model=whole, max_tokens=64, messages=HELLO)
        second = [event async for event in await create(model=stream, max_tokens=64, messages=HELLO, stream=True)]
        with pytest.raises(anthropic.PermissionDeniedError):
            await create(model=whole, max_tokens=64, messages=HOSTILE)
        with pytest.raises(anthropic.APIStatusError) as stop:
            [event async for event in await create(model=stopped, max_tokens=64, messages=HELLO, stream=True)]

    assert first.content[0].type == "text"
    assert text_of(second) == "piece by piece"
    assert isinstance(stop.value.body, dict)
    assert stop.value.body["error"]["code"] == "blocked"
    until(lambda: endpoint.one(stopped), "the stopped stream's request")
