# SPDX-License-Identifier: Apache-2.0
"""What may pass the gateway passes as the very bytes that came; what is blocked never reaches the model."""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

from shieldwall.core.event import Direction
from shieldwall.gateway import Settings, Upstreams, UpstreamSettings
from shieldwall.gateway.conn import AsgiConn
from shieldwall.gateway.keys import Key
from shieldwall.gateway.proxy import Exchange, Proxy
from shieldwall.gateway.upstream import Reply, Route
from tests.gateway.cells import (
    ATTACK,
    OPENAI,
    ROOTS,
    SPELLINGS,
    Root,
    body_of,
    event,
    events_of,
    new_guard,
    one_of_each,
)
from tests.gateway.models import BENIGN, Place, minimal

GUARD = new_guard()
KEY = Key(id="k", name="k", sha256="")
STABLE = [root for root in ROOTS if "beta" not in root.name]


class Echo:
    """A model's endpoint that keeps what it was sent and answers with fixed bytes, some at a time."""

    def __init__(self, answer: bytes, kind: str) -> None:
        self.asked: list[bytes] = []
        self.status = 200
        self.headers: Mapping[str, str] = {"Content-Type": kind}
        self.raw_headers = ((b"Content-Type", kind.encode()),)
        self._left = [answer[start : start + 97] for start in range(0, len(answer), 97)]

    async def send(self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        self.asked.append(body)
        return self

    async def read(self) -> bytes:
        return self._left.pop(0) if self._left else b""

    def close(self) -> None:
        """Nothing is open."""


class Staying(AsgiConn):
    """A client that waits for its answer."""

    def watch(self) -> None:
        """It need not be watched."""


async def exchange(root: Root, asked: bytes, answer: bytes) -> tuple[int, bytes, list[bytes]]:
    """One exchange through the proxy: status and body the client has, and what the endpoint was sent."""
    echo = Echo(answer, "text/event-stream" if root.way == "stream" else "application/json")
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": asked, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"method": "POST", "path": root.dialect.route, "query_string": b"", "headers": []}
    conn = Staying(scope, receive, send)
    settings = UpstreamSettings(url="http://model.test", dialect=root.dialect.name)
    proxy = Proxy(GUARD, Upstreams([Route("model", settings, echo)]), Settings(), enforce=True)  # type: ignore[arg-type]
    await proxy.run(Exchange(conn, root.dialect, KEY, event(direction=Direction.REQUEST)))
    status = next(message["status"] for message in sent if "status" in message)
    body = b"".join(message.get("body", b"") for message in sent)
    return status, body, echo.asked


def request_of(root: Root) -> bytes:
    """The smallest request of a dialect."""
    return json.dumps(minimal(ROOTS[0].kind if root.dialect is OPENAI else ROOTS[3].kind)).encode()


def spaced(body: bytes) -> bytes:
    """The same JSON with white space a re-encoder would not write."""
    return b" \n" + body.replace(b'": ', b'" :\t', 1) + b"\r\n"


def bytes_of(root: Root, place: Place, text: bytes) -> bytes:
    body = body_of(place, text)
    return b"".join(events_of(root.dialect, body)) if root.way == "stream" else spaced(body)


@pytest.mark.parametrize("root", STABLE, ids=lambda root: root.name)
async def test_benign_messages_pass_as_the_bytes_that_came(root: Root) -> None:
    """Both ways, through the whole exchange, white space and member order included."""
    red = []
    for place in one_of_each(root):
        carried = bytes_of(root, place, (place.legal or (BENIGN,))[0].encode())
        asked, answer = (carried, b'{"ok": true}') if root.way == "ask" else (spaced(request_of(root)), carried)
        status, body, reached = await exchange(root, asked, answer)
        if (status, body, reached) != (200, answer, [asked]):
            red.append(place.label)

    assert red == []


@pytest.mark.parametrize("root", STABLE, ids=lambda root: root.name)
async def test_a_known_bad_message_reaches_nobody(root: Root) -> None:
    """A request with it never reaches the model, an answer with it never the client."""
    red = []
    for place in one_of_each(root):
        carried = bytes_of(root, place, SPELLINGS["plain"])
        asked, answer = (carried, b'{"ok": true}') if root.way == "ask" else (request_of(root), carried)
        status, body, reached = await exchange(root, asked, answer)
        wanted = [] if root.way == "ask" else [asked]
        refused = status == (200 if root.way == "stream" else 403) and b"blocked by policy" in body
        if not refused or reached != wanted or ATTACK.encode() in body:
            red.append(place.label)

    assert red == []
