# SPDX-License-Identifier: Apache-2.0
"""No act without a trace: what a client has received is on record, also when the node dies the moment after.

The quick tests look at the disk between two bytes of an answer. The slow one kills the node under load, again and again
on one data directory, and holds every claim a client was given against the journal that comes back.
"""

import asyncio
import http.client
import json
import random
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Call, Endpoint, answer, completion, events, said, until
from tests.support import ATTACK, Node, config_for, records

CHAT = "/v1/chat/completions"
COMMENT = b": x-shieldwall-entry "
KILLS = 50
CLIENTS = 6


class Claim(NamedTuple):
    """What a client knows by what it received."""

    event: str
    request: int
    """Index of the request's record, from the head of the answer."""
    response: int | None
    """Index of the response's record, from the end of a stream; -1 for a whole answer, which does not name it."""


def test_the_first_byte_leaves_after_the_requests_record(node: Node, endpoint: Endpoint) -> None:
    """While the stream is still open the request's record is on disk, and the response's is not."""
    turn = asyncio.Event()

    async def run(call: Call) -> None:
        await call.open()
        await call.chunk(said("first ")[1])
        await turn.wait()
        for each in [*said("last")[1:], b""]:
            await call.chunk(each)

    connection = node.connect()
    body = {"model": endpoint.model(run), "stream": True, "messages": [{"role": "user", "content": "x"}]}
    connection.request("POST", CHAT, json.dumps(body), {"Authorization": f"Bearer {node.key}"})
    response = connection.getresponse()
    first = response.read1()
    event = response.getheader("x-shieldwall-event") or ""
    during = node.about(event)
    endpoint.soon(turn.set)
    rest = response.read()
    connection.close()
    after = node.about(event)

    assert b"first " in first
    assert [record.entry.type for record in during] == [EntryType.DECISION_REQUEST]
    assert [record.entry.type for record in after] == [EntryType.DECISION_REQUEST, EntryType.DECISION_RESPONSE]
    assert after[1].index == int(rest.partition(COMMENT)[2].partition(b"\n")[0])


@pytest.mark.parametrize("content", ["good day", ATTACK])
def test_the_last_byte_leaves_after_the_last_record(node: Node, endpoint: Endpoint, content: str) -> None:
    """Whatever the outcome: with the answer in hand, its record is found on disk."""
    received = node.chat(endpoint.model(answer(completion("fine"))), content)

    kinds = [record.entry.type for record in node.about(received.event)]
    refused = [EntryType.DECISION_REQUEST]
    assert kinds == (refused if received.status == 403 else [*refused, EntryType.DECISION_RESPONSE])


def test_a_journal_goes_on_where_a_killed_node_left_it(tmp_path: Path, endpoint: Endpoint) -> None:
    """One kill with a claim on each side: old records stay, new ones follow without a gap, the key still works."""
    node = Node(tmp_path / "DATA", config_for(endpoint.url)).start()
    first = node.chat("demo")
    key = node.key
    node.kill()
    node.start()
    second = node.chat("demo")
    code = node.stop()

    kept = records(node.data)
    assert code == 0
    assert node.key == key
    assert [record.index for record in kept] == list(range(len(kept)))
    assert {first.event, second.event} <= {record.entry.event for record in kept}
    assert kept[-1].entry.type is EntryType.NODE_STOP


class _Load:
    """Clients that ask one thing after another and write down what they were told."""

    def __init__(self, node: Node, models: tuple[str, str]) -> None:
        self._node = node
        self._models = models
        self.claims: list[Claim] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        connection = self._node.connect()
        try:
            while True:
                self._one(connection, chance)
        except (OSError, http.client.HTTPException):
            # The node was killed; what was claimed until then counts.
            connection.close()

    def _one(self, connection: http.client.HTTPConnection, chance: random.Random) -> None:
        stream = chance.random() < 0.5
        content = ATTACK if chance.random() < 0.2 else "good day"
        body: dict[str, Any] = {"model": self._models[stream], "stream": stream}
        body["messages"] = [{"role": "user", "content": content}]
        connection.request("POST", CHAT, json.dumps(body), {"Authorization": f"Bearer {self._node.key}"})
        response = connection.getresponse()
        if not stream or response.status != 200:
            # A whole answer counts once it is all there: the head may be out before the body.
            response.read()
        event = response.getheader("x-shieldwall-event") or ""
        request = int(response.getheader("x-shieldwall-entry") or -1)
        # The first byte of the answer is here: the request is on record from now on.
        self.claims.append(Claim(event, request, None))
        if response.status == 200:
            rest = response.read() if stream else b""
            named = int(rest.partition(COMMENT)[2].partition(b"\n")[0]) if stream else -1
            self.claims.append(Claim(event, request, named))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_given_before_a_kill_is_on_record(tmp_path: Path, endpoint: Endpoint) -> None:
    """Fifty times kill -9 under load on one data directory: no claim is without its record, no index is missing."""
    node = Node(tmp_path / "DATA", config_for(endpoint.url))
    models = (
        endpoint.model(answer(completion("fine"))),
        endpoint.model(events(*said("piece ", "by piece"), pause_s=0)),
    )
    chance = random.Random(7)
    claims: list[Claim] = []
    for _ in range(KILLS):
        node.start()
        load = _Load(node, models)
        until(lambda load=load: len(load.claims) >= 20, "some claims")  # type: ignore[misc]
        time.sleep(chance.random() * 0.05)
        node.kill()
        load.join()
        claims += load.claims
    node.start()
    code = node.stop()

    kept = records(node.data)
    by_index = {record.index: record.entry for record in kept}
    answered = {record.entry.event for record in kept if record.entry.type is EntryType.DECISION_RESPONSE}
    assert code == 0
    assert len(claims) >= 20 * KILLS
    assert [record.index for record in kept] == list(range(len(kept)))
    for claim in claims:
        entry = by_index[claim.request]
        assert (entry.event, entry.type) == (claim.event, EntryType.DECISION_REQUEST)
        if claim.response is not None:
            assert claim.event in answered
            assert claim.response == -1 or by_index[claim.response].event == claim.event
    print(f"{KILLS} kills, {len(claims)} claims, {len(kept)} records")
