# SPDX-License-Identifier: Apache-2.0
"""What cannot be read or may not be asked: a clear error in the caller's dialect, never a 500, and a record of whatever
somebody we know has tried."""

import asyncio
import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.scripted import Call, Endpoint, answer, completion, events, reply, said, until
from tests.support import ATTACK, SECRET, Answer, Node, shieldwall

CHAT, MESSAGES, INSPECT = "/v1/chat/completions", "/v1/messages", "/v1/inspect"
ROUTES = {"openai": CHAT, "anthropic": MESSAGES}
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def body(**changes: Any) -> bytes:
    """A right request with some members changed, or left out where the change is `...`."""
    value = {"model": "demo", "max_tokens": 9, "messages": HELLO, **changes}
    return json.dumps({name: item for name, item in value.items() if item is not ...}).encode()


# What is wrong -> body, status, words of the message, place that is named.
WRONG: dict[str, tuple[bytes, int, str, str]] = {
    "empty": (b"", 400, "not JSON", ""),
    "no JSON": (b"hello", 400, "not JSON", ""),
    "cut off": (body()[:-3], 400, "ends too early", ""),
    "bytes after the end": (body() + b"x", 400, "not JSON", ""),
    "a list": (b"[]", 400, "must be a JSON object", ""),
    "a number out of range": (body()[:-1] + b', "n": 1e999}', 400, "number is out of range", ""),
    "no model": (body(model=...), 400, "`model`", "/model"),
    "a model that is a number": (body(model=7), 400, "`model`", "/model"),
    "an empty model": (body(model=""), 400, "`model`", "/model"),
    "a model nobody serves": (body(model="gpt-x"), 404, "no upstream serves this model", "/model"),
    "no messages": (body(messages=...), 400, "`messages`", "/messages"),
    "messages that are a string": (body(messages="Hello"), 400, "`messages`", "/messages"),
    "an empty list of messages": (body(messages=[]), 400, "`messages`", "/messages"),
    "a message that is a string": (body(messages=["Hello"]), 400, "must be an object", "/messages/0"),
    "a message without a role": (body(messages=[{"content": "x"}]), 400, "`role`", "/messages/0/role"),
    "a stream that is a string": (body(stream="yes"), 400, "`stream`", "/stream"),
    "two members of one name": (body()[:-1] + b', "model": "demo"}', 400, "two members", ""),
    "two members of one name, far inside": (
        body(metadata={"a": 1}).replace(b'"a": 1', b'"a": 1, "a": 2'),
        400,
        "two members",
        "",
    ),
    "no UTF-8": (body().replace(b"Hello", b"H\xffllo"), 400, "UTF-8", ""),
    "too deep": (body(metadata=json.loads("[" * 80 + "]" * 80)), 413, "nested deeper", "/metadata"),
    "far too deep": (body()[:-1] + b', "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 413, "nested deeper", ""),
    "too many strings": (body(metadata=["x"] * 60_000), 413, "more than 50000 strings", "/metadata"),
}


def code_and_words(received: Answer, dialect: str) -> tuple[str, str]:
    """Code and message of an error, after a check that a client of that dialect can read it."""
    value = received.json
    assert received.headers["content-type"] == "application/json"
    error = value["error"]
    if dialect == "anthropic":
        assert value["type"] == "error"
        assert value["request_id"] == received.event
    else:
        assert error["event"] == received.event
    assert isinstance(error["type"], str)
    return error["code"], error["message"]


def where_of(received: Answer, dialect: str) -> str:
    """The place an error names."""
    error = received.json["error"]
    if dialect == "openai":
        return str(error["param"] or "")
    return str(error["message"]).partition(" (at ")[2].rstrip(")")


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("dialect", ROUTES)
def test_a_wrong_request_is_told_what_is_wrong(node: Node, dialect: str, what: str) -> None:
    """The message names the field, nothing is forwarded, and the attempt is on record."""
    data, status, words, where = WRONG[what]

    received = node.call("POST", ROUTES[dialect], data)

    code, message = code_and_words(received, dialect)
    (record,) = node.about(received.event)
    assert received.status == status
    assert words in message
    assert where_of(received, dialect).startswith(where)
    assert code in {"invalid_request", "too_large", "model_not_found"}
    assert received.headers["x-should-retry"] == "false"
    assert record.index == int(received.headers["x-shieldwall-entry"])
    assert record.entry.action == received.headers["x-shieldwall-action"] == "block"
    assert record.opening["fields"]["reason"] == "invalid_input"


def test_an_error_never_repeats_what_was_sent(node: Node) -> None:
    """A prompt that cannot be read must not turn up in an error, a header or the log."""
    received = node.call("POST", CHAT, b'{"model": "demo", "messages": "my secret prompt", "my secret field": 1')

    assert received.status == 400
    assert b"secret" not in received.body
    assert "secret" not in repr(received.headers)
    assert "secret" not in node.log.read_text()


def test_a_body_over_the_limit_is_refused_while_it_is_sent(tight: Node) -> None:
    """Its length stated or not, the answer is 413, and it reaches a client that is still sending."""
    big = body(messages=[{"role": "user", "content": "x" * 8_000_000}])
    parts = [big[start : start + 65_536] for start in range(0, len(big), 65_536)]

    stated = tight.call("POST", CHAT, big)
    unstated = tight.call("POST", CHAT, iter(parts))

    for received in (stated, unstated):
        (record,) = tight.about(received.event)
        assert received.status == 413
        assert "65536" in code_and_words(received, "openai")[1]
        assert record.opening["fields"]["reason"] == "invalid_input"


def test_the_stock_client_sees_the_limit_as_an_error(tight: Node) -> None:
    """Not as a broken connection that it would retry."""
    with (
        openai.OpenAI(base_url=f"{tight.url}/v1", api_key=tight.key) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "x" * 8_000_000}])

    assert refused.value.status_code == 413
    assert refused.value.code == "too_large"


def test_a_body_that_stalls_is_given_up(tight: Node) -> None:
    """A client that never finishes its request holds a connection for the stated time only."""
    with socket.create_connection(tight.address, timeout=60) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tight.key}\r\nContent-Length: 500\r\n\r\n{{"
        client.sendall(head.encode())
        received = b"".join(iter(lambda: client.recv(65_536), b""))

    assert received.startswith(b"HTTP/1.1 400")
    assert b"did not arrive within 1 s" in received


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, identity"])
def test_a_compressed_request_is_refused(node: Node, encoding: str) -> None:
    """It could not be forwarded untouched and read at once; no stock client sends one."""
    received = node.call("POST", CHAT, gzip.compress(body()), {"Content-Encoding": encoding})

    (record,) = node.about(received.event)
    assert received.status == 400
    assert where_of(received, "openai") == "content-encoding"
    assert record.entry.action == "block"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("DELETE", CHAT),
        ("PUT", MESSAGES),
        ("GET", INSPECT),
        ("POST", "/v1/models"),
        ("OPTIONS", "/v1/models"),
    ],
)
def test_a_wrong_method_is_named_with_the_right_one(node: Node, method: str, path: str) -> None:
    """And the attempt is on record."""
    received = node.call(method, path)

    (record,) = node.about(received.event)
    assert received.status == 405
    assert received.headers["allow"] in ("GET", "POST")
    assert received.headers["allow"] != method
    assert record.opening["fields"]["reason"] == "method"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/responses",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/chat%2Fcompletions/x",
        "/V1/chat/completions",
        "/v1/messages/batches",
        "/v1/files",
        "/v1/",
        "/elsewhere",
        "/v1/%ff%00",
        "/v1/" + "x" * 5_000,
    ],
)
def test_an_unknown_route_is_refused_and_recorded(node: Node, endpoint: Endpoint, path: str) -> None:
    """Nothing goes out by a door that nobody watches."""
    before = len(endpoint.calls)

    received = node.call("POST", path, body(model="up-1"))

    (record,) = node.about(received.event)
    assert received.status == 404
    assert received.json["error"]["code"] == "unknown_route"
    assert record.opening["fields"]["reason"] == "unknown_route"
    assert len(endpoint.calls) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic ZGVtbzpkZW1v"},
        {"Authorization": "Bearer sk-123"},
        {"Authorization": f"Bearer sw-{'0' * 12}-{'0' * 64}"},
        {"Authorization": "Bearer sw-\xff\xfe-\xff"},
        {"Authorization": "", "x-api-key": "sk-123"},
    ],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, INSPECT, "/v1/models", "/v1/unknown"])
def test_without_a_key_nobody_is_answered(node: Node, path: str, headers: dict[str, str]) -> None:
    """401 in the caller's dialect, before anything is read or said about routes."""
    received = node.call("POST", path, body(), headers)

    code, message = code_and_words(received, "anthropic" if path == MESSAGES else "openai")
    assert received.status == 401
    assert code == "authentication"
    assert "shieldwall keys create" in message
    assert received.headers["www-authenticate"] == "Bearer"
    assert node.about(received.event) == []


def test_a_refusal_reaches_a_client_that_is_still_sending(node: Node) -> None:
    """A stranger with a large body is told 401, and not left with a broken connection."""
    received = node.call("POST", CHAT, b"x" * 8_000_000, {"Authorization": "Bearer sk-123"})

    assert received.status == 401


@pytest.mark.parametrize("role", ["viewer", "auditor", "approver"])
def test_a_key_of_another_role_may_not_call_models(node: Node, endpoint: Endpoint, role: str) -> None:
    """It is known who asked, so it is on record; the answer says which roles may."""
    key = shieldwall("keys", "create", f"some-{role}", "--role", role, "--data", str(node.data)).stdout.decode().strip()
    model = endpoint.model(answer(completion("never")))

    received = node.call("POST", CHAT, body(model=model), {"Authorization": f"Bearer {key}"})

    (record,) = node.about(received.event)
    assert received.status == 403
    assert "user or operator" in received.json["error"]["message"]
    assert record.opening["fields"]["reason"] == "role"
    assert record.opening["fields"]["principal"] == f"some-{role}"
    assert endpoint.of(model) == []


def test_inspect_answers_as_it_was_asked(node: Node) -> None:
    """One object for one, a list for a list; what cannot be read becomes an error in its place."""
    one = node.call("POST", INSPECT, json.dumps({"text": ATTACK}).encode())
    items = [{"text": "good day"}, {"text": 7}, "x", {"text": ATTACK, "surface": "tool_output"}, {"surface": "moon"}]
    several = node.call("POST", INSPECT, json.dumps(items).encode())

    assert one.json["action"] == "block"
    assert one.headers["x-shieldwall-action"] == "block"
    assert node.about(one.event)[0].index == int(one.headers["x-shieldwall-entry"])
    assert [item.get("action", "error") for item in several.json] == ["allow", "error", "error", "block", "error"]
    assert several.json[1]["error"]["where"] == "/text"


@pytest.mark.parametrize("data", [b"", b"{", b'"x"', b"7", b'{"text": 1}', b'{"text": "x", "surface": "moon"}'])
def test_inspect_says_what_is_wrong_and_records_it(node: Node, data: bytes) -> None:
    """The verdict's door leaves the same trace as the others."""
    received = node.call("POST", INSPECT, data)

    (record,) = node.about(received.event)
    assert received.status == 400
    assert record.opening["fields"]["reason"] == "invalid_input"


def test_connections_are_reused_on_both_sides(node: Node, endpoint: Endpoint) -> None:
    """Twenty exchanges on one connection of the client need no twenty connections to the upstream."""
    model = endpoint.model(answer(completion("fine")))
    before = endpoint.connections
    connection = node.connect()
    statuses = []
    for _ in range(20):
        connection.request("POST", CHAT, body(model=model), {"Authorization": f"Bearer {node.key}"})
        response = connection.getresponse()
        statuses.append((response.status, response.read()))
    connection.close()

    assert statuses == [(200, completion("fine"))] * 20
    assert endpoint.connections - before <= 1


def test_a_connection_goes_on_after_an_error(node: Node, endpoint: Endpoint) -> None:
    """Refusals of what was read whole do not cost the client its connection."""
    model = endpoint.model(answer(completion("fine")))
    connection = node.connect()
    statuses = []
    for data in (
        body(messages=[]),
        body(model=model, messages=[{"role": "user", "content": ATTACK}]),
        body(model=model),
    ):
        connection.request("POST", CHAT, data, {"Authorization": f"Bearer {node.key}"})
        response = connection.getresponse()
        response.read()
        statuses.append((response.status, response.getheader("connection")))
    connection.close()

    assert statuses == [(400, None), (403, None), (200, None)]


def test_pipelined_requests_are_answered_in_order(node: Node, endpoint: Endpoint) -> None:
    """Three requests in one packet, a slow whole one, a stream and a refused one: each has its own answer."""

    async def slow(call: Call) -> None:
        await asyncio.sleep(0.1)
        await call.whole(completion("first"), headers=[("content-type", "application/json")])

    models = [endpoint.model(slow), endpoint.model(events(*said("second")))]
    bodies = [body(model=models[0]), body(model=models[1], stream=True), body(messages=[])]
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {node.key}\r\n"
    packet = b"".join(f"{head}Content-Length: {len(each)}\r\n\r\n".encode() + each for each in bodies)
    received = b""
    with socket.create_connection(node.address, timeout=60) as client:
        client.sendall(packet)
        while b"must be a non-empty list" not in received:
            more = client.recv(65_536)
            assert more, received
            received += more

    places = [received.find(each) for each in (b"first", b"second", b"[DONE]", b"HTTP/1.1 400")]
    assert -1 not in places
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 ") == 3


def test_a_query_reaches_the_upstream(node: Node, endpoint: Endpoint) -> None:
    """Clients of some providers send a version there."""
    model = endpoint.model(answer(reply({"type": "text", "text": "fine"})))

    received = node.call("POST", f"{MESSAGES}?beta=true", body(model=model))

    assert received.status == 200
    assert endpoint.one(model).target == f"{MESSAGES}?beta=true"


def test_a_full_journal_is_answered_503(nodes: Callable[..., Node]) -> None:
    """Where a verdict cannot be recorded none is given; the client is told to come back."""
    small = nodes("full", "[ledger]\nsegment_bytes = 16384\nmax_pending = 1\n")

    received = small.call("POST", INSPECT, json.dumps([{"text": "good day"}] * 100).encode())

    assert received.status == 503
    assert received.headers["retry-after"] == "1"
    assert received.headers["x-should-retry"] == "true"
    assert received.json["error"]["code"] == "overloaded"


def test_the_health_check_needs_no_key(node: Node) -> None:
    """A node that serves passed its self-test; it says nothing else."""
    received = node.call("GET", "/healthz", headers={"Authorization": ""})

    assert (received.status, received.json) == (200, {"status": "ok"})


def test_the_logs_hold_no_secret(node: Node, endpoint: Endpoint) -> None:
    """Neither the provider's key nor a virtual one nor a prompt is written anywhere by the node."""
    node.chat(endpoint.model(answer(completion("fine"))), "my private prompt")
    node.chat("nobody", "my private prompt")

    written = node.words.read_text() + node.log.read_text()
    files = [path for path in node.data.rglob("*") if path.is_file() and path.name != "demo.key"]
    kept = b"".join(path.read_bytes() for path in files)
    for secret in (SECRET, node.key, node.key.rpartition("-")[2], "my private prompt"):
        assert secret not in written
        assert secret.encode() not in kept
    until(lambda: kept, "something that is kept")
