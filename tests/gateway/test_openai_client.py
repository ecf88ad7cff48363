# SPDX-License-Identifier: Apache-2.0
"""The stock `openai` client through the gateway: everything works as without it, only attacks do not pass."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Endpoint, answer, called, chunk, completion, events, keep, said, until
from tests.support import ATTACK, SECRET, Node

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
HOSTILE: list[Any] = [{"role": "user", "content": f"Please: {ATTACK}"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
COMMENT = b": x-shieldwall-entry "


@pytest.fixture
def wire(node: Node) -> Iterator[tuple[openai.OpenAI, list[httpx2.Request]]]:
    """The stock client, and the requests it really sent."""
    sent: list[httpx2.Request] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0, http_client=http) as client:
        yield client, sent


def text_of(stream: Any) -> str:
    return "".join(event.choices[0].delta.content or "" for event in stream if event.choices)


def test_the_demo_answers_whole(chat: openai.OpenAI) -> None:
    """The first request of a new user works without an account."""
    answer = chat.chat.completions.create(model="demo", messages=HELLO)

    assert "You said: Hello" in (answer.choices[0].message.content or "")


def test_the_demo_answers_in_a_stream(chat: openai.OpenAI) -> None:
    """The same words arrive piece by piece."""
    stream = list(chat.chat.completions.create(model="demo", messages=HELLO, stream=True))

    assert "You said: Hello" in text_of(stream)
    assert len(stream) > 5


def test_the_demo_calls_the_tool_it_is_given(chat: openai.OpenAI) -> None:
    """A tool call, its result and the answer make the usual three steps."""
    first = chat.chat.completions.create(model="demo", messages=HELLO, tools=TOOLS).choices[0].message
    assert first.tool_calls
    turn = [*HELLO, first.model_dump(exclude_none=True)]
    turn.append({"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "42 results"})

    second = chat.chat.completions.create(model="demo", messages=turn, tools=TOOLS)

    assert second.choices[0].message.content == "The tool says: 42 results"


def test_models_are_listed_and_one_is_found(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Names written out stand in the list, names behind a pattern come from the upstream, foreign ones do not."""
    endpoint.models = ["up-listed", "elsewhere"]

    names = [model.id for model in chat.models.list()]

    assert {"demo", "nobody", "up-listed"} <= set(names)
    assert "elsewhere" not in names
    assert chat.models.retrieve("up-listed").id == "up-listed"
    with pytest.raises(openai.NotFoundError):
        chat.models.retrieve("elsewhere")


def test_a_whole_exchange_passes_byte_for_byte(
    wire: tuple[openai.OpenAI, list[httpx2.Request]], endpoint: Endpoint
) -> None:
    """What the client sent is what the upstream got, what the upstream sent is what the client got."""
    client, sent = wire
    body = completion('naïve "quotes" \u2028 🛡 and a \\ backslash')
    model = endpoint.model(answer(body, headers=[("x-request-id", "req-7"), ("openai-processing-ms", "12")]))
    messages = [{"role": "user", "content": "déjà vu \U0001f600", "x_unknown": {"deep": [1.0, None]}}]

    response = client.chat.completions.with_raw_response.create(
        model=model, messages=messages, temperature=0.10, extra_body={"x_vendor": 1e-7}
    )

    assert endpoint.one(model).body == sent[0].content
    assert response.http_response.content == body
    assert response.headers["x-request-id"] == "req-7"
    assert response.headers["openai-processing-ms"] == "12"
    assert response.headers["content-type"] == "application/json"


def test_a_stream_passes_byte_for_byte(wire: tuple[openai.OpenAI, list[httpx2.Request]], endpoint: Endpoint) -> None:
    """Nothing is rewritten in a stream; one comment of ours stands before its terminator."""
    client, sent = wire
    chunks = [b": keep-alive\n\n", *said("naïve ", "text ", "\u2028🛡"), b""]
    model = endpoint.model(events(*chunks[:-1]))

    with client.chat.completions.with_streaming_response.create(model=model, messages=HELLO, stream=True) as response:
        received = b"".join(response.iter_bytes())

    ours = [line for line in received.split(b"\n\n") if line.startswith(COMMENT)]
    assert len(ours) == 1
    assert received.replace(ours[0] + b"\n\n", b"") == b"".join(chunks)
    assert received.endswith(ours[0] + b"\n\n" + b"data: [DONE]\n\n")
    assert endpoint.one(model).body == sent[0].content


def test_every_answer_names_its_event_and_its_record(chat: openai.OpenAI, node: Node, endpoint: Endpoint) -> None:
    """The headers lead to the record of the request; the record of the response is there before the last byte."""
    model = endpoint.model(answer(completion("fine")))

    headers = chat.chat.completions.with_raw_response.create(model=model, messages=HELLO).headers

    about = node.about(headers["x-shieldwall-event"])
    assert [record.entry.type for record in about] == [EntryType.DECISION_REQUEST, EntryType.DECISION_RESPONSE]
    assert about[0].index == int(headers["x-shieldwall-entry"])
    assert headers["x-shieldwall-action"] == "allow"
    assert about[0].entry.model == model
    assert about[0].opening["fields"]["principal"] == "demo"


def test_a_stream_names_the_record_of_its_response(chat: openai.OpenAI, node: Node, endpoint: Endpoint) -> None:
    """The header leads to the request's record, the comment at the end to the response's."""
    model = endpoint.model(events(*said("fine")))

    with chat.chat.completions.with_streaming_response.create(model=model, messages=HELLO, stream=True) as response:
        received = b"".join(response.iter_bytes())

    named = int(received.split(COMMENT)[1].split(b"\n")[0])
    about = node.about(response.headers["x-shieldwall-event"])
    assert [record.index for record in about] == [int(response.headers["x-shieldwall-entry"]), named]


def test_the_clients_key_stays_and_the_providers_key_goes_out(node: Node, endpoint: Endpoint) -> None:
    """The upstream never sees the virtual key, cookies or who stands behind the gateway."""
    model = endpoint.model(answer(completion("fine")))
    hop = {"Cookie": "session=1", "X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7", "X-Real-IP": "10.9.8.7"}
    hop |= {"x-api-key": node.key, "Connection": "keep-alive, x-private", "X-Private": "10.9.8.7", "OpenAI-Beta": "b=1"}
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0, default_headers=hop) as client:
        client.chat.completions.create(model=model, messages=HELLO)

    call = endpoint.one(model)
    raw = repr(call.headers)
    assert call.header("authorization") == f"Bearer {SECRET}"
    assert call.header("openai-beta") == "b=1"
    assert call.header("accept-encoding") == "identity"
    assert node.key not in raw
    assert "session=1" not in raw
    assert "10.9.8.7" not in raw
    assert call.header("x-stainless-lang") == "python"


def test_the_providers_key_never_comes_back(node: Node, chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Neither an answer nor an error of ours holds it."""
    model = endpoint.model(answer(completion("fine")))

    whole = chat.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    refused = node.chat("nobody")

    assert SECRET not in repr(whole.headers)
    assert refused.status == 502
    assert SECRET.encode() not in refused.body


def test_an_attack_is_refused_once_and_never_retried(node: Node, endpoint: Endpoint) -> None:
    """The client raises PermissionDeniedError at once: one request to the gateway, none to the upstream."""
    model = endpoint.model(answer(completion("never")))
    sent: list[httpx2.Request] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with (
        openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, http_client=http) as client,
        pytest.raises(openai.PermissionDeniedError) as refused,
    ):
        client.chat.completions.create(model=model, messages=HOSTILE)

    error = refused.value
    (record,) = [record for record in node.records() if record.entry.model == model]
    assert len(sent) == 1
    assert endpoint.of(model) == []
    assert error.code == "blocked"
    assert "injection" in error.message
    assert "selftest" not in error.message
    assert error.response.headers["x-shieldwall-action"] == "block"
    assert record.entry.event == error.response.headers["x-shieldwall-event"]
    assert record.entry.event in error.message
    assert record.index == int(error.response.headers["x-shieldwall-entry"])
    assert record.entry.action == "block"


def test_an_attack_in_an_answer_is_refused(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """A whole answer is judged before any of it leaves."""
    model = endpoint.model(answer(completion(f"Sure. {ATTACK}")))

    with pytest.raises(openai.PermissionDeniedError) as refused:
        chat.chat.completions.create(model=model, messages=HELLO)

    assert b"SHIELDWALL" not in refused.value.response.content
    assert refused.value.code == "blocked"


@pytest.mark.parametrize("cut", [1, 5, 12, len(ATTACK)])
def test_a_stream_is_stopped_in_the_middle(chat: openai.OpenAI, endpoint: Endpoint, node: Node, cut: int) -> None:
    """What came before the attack was delivered, nothing of the attack is, and the upstream is left."""
    pieces = ["All is ", "well. ", *(ATTACK[at : at + cut] for at in range(0, len(ATTACK), cut)), " and on"]
    model = endpoint.model(events(*said(*pieces)[:-2], *said(*["more "] * 2000), pause_s=0.001))
    received: list[Any] = []

    stream = chat.chat.completions.create(model=model, messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as stopped:
        keep(stream, received)

    call = endpoint.one(model)
    assert text_of(received) == "All is well. "
    assert stopped.value.code == "blocked"
    assert "event" in str(stopped.value.body)
    assert call.closed.wait(30)
    assert not call.done.is_set()
    about = node.about(stream.response.headers["x-shieldwall-event"])
    assert [record.entry.action for record in about] == ["allow", "block"]


def test_the_compromised_demo_is_stopped(chat: openai.OpenAI) -> None:
    """The first page of the quick start shows what it says."""
    with pytest.raises(openai.APIError, match="blocked") as stopped:
        text_of(chat.chat.completions.create(model="demo-compromised", messages=HELLO, stream=True))

    assert stopped.value.code == "blocked"


def test_a_tool_call_arrives_only_when_it_is_whole(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """While its arguments are still coming nothing of a call is out; then all of it is, unchanged."""
    chunks = called("search", '{"que', 'ry": "wea', 'ther"}')
    gate = asyncio.Event()

    async def run(call: Any) -> None:
        await call.open()
        await call.chunk(chunk({"content": "I will look. "}))
        for each in chunks[:-2]:
            await call.chunk(each)
        await gate.wait()
        for each in [*chunks[-2:], b""]:
            await call.chunk(each)

    model = endpoint.model(run)
    stream = iter(chat.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, stream=True))
    first = next(stream)
    # The text before the call is out although the call is not whole; only now may the upstream finish it.
    endpoint.soon(gate.set)
    calls = [call for event in stream for call in event.choices[0].delta.tool_calls or []]

    assert first.choices[0].delta.content == "I will look. "
    assert "".join(call.function.arguments or "" for call in calls if call.function) == '{"query": "weather"}'


def test_nothing_of_a_blocked_tool_call_is_delivered(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Half a call could already be run by a hasty agent."""
    pieces = ['{"query": "weather", "', 'note": "', ATTACK[:9], ATTACK[9:], '"}']
    model = endpoint.model(events(*called("search", *pieces)))
    received: list[Any] = []

    with pytest.raises(openai.APIError) as stopped:
        keep(chat.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, stream=True), received)

    assert received == []
    assert stopped.value.code == "blocked"


def test_an_attack_in_a_tool_result_is_refused(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """Injected text must not reach the model that drives tools."""
    model = endpoint.model(answer(completion("never")))
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    turn: list[Any] = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turn.append({"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": f"page: {ATTACK}"}]})

    with pytest.raises(openai.PermissionDeniedError):
        chat.chat.completions.create(model=model, messages=turn, tools=TOOLS)

    assert endpoint.of(model) == []


def test_an_image_passes_with_a_remark(chat: openai.OpenAI, endpoint: Endpoint, node: Node) -> None:
    """What cannot be read is named `uninspected`; balanced lets it by, flagged."""
    model = endpoint.model(answer(completion("a picture")))
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]

    headers = chat.chat.completions.with_raw_response.create(model=model, messages=messages).headers

    found = node.about(headers["x-shieldwall-event"])[0].opening["findings"]
    assert headers["x-shieldwall-action"] == "flag"
    assert [finding["category"] for finding in found] == ["uninspected"]


def test_routes_that_are_not_guarded_are_not_forwarded(chat: openai.OpenAI, endpoint: Endpoint) -> None:
    """A route nobody inspects would be the way around the gateway."""
    before = len(endpoint.calls)

    with pytest.raises(openai.NotFoundError) as embeddings:
        chat.embeddings.create(model="up-1", input="x")
    with pytest.raises(openai.NotFoundError):
        chat.responses.create(model="up-1", input="x")

    assert embeddings.value.code == "unknown_route"
    assert len(endpoint.calls) == before


def test_a_rate_limit_passes_with_its_headers_and_the_retry_works(node: Node, endpoint: Endpoint) -> None:
    """The provider's 429 and its Retry-After reach the client, whose own retry then succeeds."""
    refusal = b'{"error": {"message": "slow down", "type": "requests", "param": null, "code": "rate_limit_exceeded"}}'
    limits = [("retry-after-ms", "10"), ("retry-after", "1"), ("x-ratelimit-remaining-requests", "0")]

    async def run(call: Any) -> None:
        first = len(endpoint.of(model)) == 1
        await (answer(refusal, 429, limits) if first else answer(completion("at last")))(call)

    model = endpoint.model(run)
    seen: list[httpx2.Response] = []
    http = openai.DefaultHttpxClient(event_hooks={"response": [seen.append]})
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=1, http_client=http) as client:
        done = client.chat.completions.create(model=model, messages=HELLO)

    assert done.choices[0].message.content == "at last"
    assert [response.status_code for response in seen] == [429, 200]
    assert seen[0].headers["retry-after"] == "1"
    assert seen[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert seen[0].headers["x-shieldwall-action"] == "allow"


async def test_the_async_client_works_the_same(node: Node, endpoint: Endpoint) -> None:
    """Whole, streamed, blocked and stopped, through the other transport of the client."""
    whole, stream = endpoint.model(answer(completion("fine"))), endpoint.model(events(*said("piece ", "by piece")))
    stopped = endpoint.model(events(*said("well ", ATTACK)))
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0) as client:
        create = client.chat.completions.create
        first = await create(model=whole, messages=HELLO)
        second = [event async for event in await create(model=stream, messages=HELLO, stream=True)]
        with pytest.raises(openai.PermissionDeniedError):
            await create(model=whole, messages=HOSTILE)
        with pytest.raises(openai.APIError) as stop:
            [event async for event in await create(model=stopped, messages=HELLO, stream=True)]

    assert first.choices[0].message.content == "fine"
    assert text_of(second) == "piece by piece"
    assert stop.value.code == "blocked"


async def test_fifty_exchanges_at_once_do_not_mix(node: Node, endpoint: Endpoint) -> None:
    """Each gets its own answer, whole or streamed; the hostile ones are refused, the others are not touched."""

    async def echo(call: Any) -> None:
        ask = json.loads(call.body)
        text = ask["messages"][0]["content"]
        script = events(*said(*text)) if ask.get("stream") else answer(completion(text))
        await script(call)

    model = endpoint.model(echo)
    limits = httpx2.Limits(max_connections=50)
    http = openai.DefaultAsyncHttpxClient(limits=limits)

    async def one(number: int, client: openai.AsyncOpenAI) -> str:
        text = f"exchange {number}{'' if number % 5 else f' {ATTACK}'}"
        create = client.chat.completions.create
        try:
            if number % 2:
                stream = await create(model=model, messages=[{"role": "user", "content": text}], stream=True)
                return text_of([event async for event in stream])
            whole = await create(model=model, messages=[{"role": "user", "content": text}])
            return whole.choices[0].message.content or ""
        except openai.PermissionDeniedError:
            return "refused"

    async with openai.AsyncOpenAI(
        base_url=f"{node.url}/v1", api_key=node.key, max_retries=0, http_client=http
    ) as client:
        answers = await asyncio.gather(*(one(number, client) for number in range(50)))

    assert answers == [f"exchange {number}" if number % 5 else "refused" for number in range(50)]
    until(lambda: len(endpoint.of(model)) == 40, "the forty that pass")
