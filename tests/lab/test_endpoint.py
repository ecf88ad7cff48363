# SPDX-License-Identifier: Apache-2.0
"""Defences behind HTTP, against a real server: what counts as a find, what as a failure, and where the key goes."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Surface
from shieldwall.lab import Item
from shieldwall.lab.defences import make
from shieldwall.lab.endpoint import KEY, refuses

ATTACK, PLAIN = Item("Attack at dawn.", Surface.TOOL_RESULT), Item("Good day.")

Answer = Callable[[dict[str, Any] | list[Any]], tuple[int, Any]]


class Site:
    """A server whose answers a test writes: path to a function from the body to status and body."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.bodies: list[Any] = []
        self.keys: set[str] = set()
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.keys |= {value.decode() for name, value in scope["headers"] if name == b"authorization"}
        self.bodies.append(json.loads(body))
        status, answer = self.answers[scope["path"]](self.bodies[-1])
        headers = [(b"location", b"/elsewhere")] if status == 302 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": answer if isinstance(answer, bytes) else json.dumps(answer).encode()}
        )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site()
    server = uvicorn.Server(uvicorn.Config(made, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    monkeypatch.setenv(KEY, "sw-test")
    yield made
    server.should_exit = True
    thread.join(20)


def found(texts: Any) -> list[bool]:
    return [text.startswith("Attack") for text in texts]


def test_our_own_inspection_is_a_defence(site: Site) -> None:
    """Several texts in one request, surfaces and key sent along, the action as its decision."""
    site.answers["/v1/inspect"] = lambda items: (
        200,
        [
            {"action": "block" if hit else "allow", "score": 0.9 * hit, "findings": [], "complete": True}
            for hit in found(item["text"] for item in items)
        ],
    )
    defence = make(f"inspect:{site.url}")

    attack, plain = defence.judge([ATTACK, PLAIN])
    defence.close()

    assert (attack.score, attack.flagged) == (0.9, True)
    assert (plain.score, plain.flagged) == (0.0, False)
    assert site.bodies[-1][0]["surface"] == "tool_result"
    assert site.keys == {"Bearer sw-test"}
    assert "sw-test" not in repr(defence.describe())
    assert not defence.describe().is_local


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ([{"action": "allow", "score": 0.0, "complete": False}], "incomplete verdict"),
        ([{"error": {"message": "no"}}], "error object"),
        ([], "unexpected answer"),
        ([{"action": "allow", "score": 3, "complete": True}], "score outside 0 to 1"),
        (b"<html>", "unexpected answer"),
    ],
)
def test_an_inspection_without_a_verdict_is_a_failure(site: Site, answer: Any, failure: str) -> None:
    """Degraded, refused, short, out of range or no JSON: none of them is a score."""
    fine = [{"action": "allow", "score": 0.0, "complete": True}]
    site.answers["/v1/inspect"] = lambda items: (200, answer if found(i["text"] for i in items)[0] else fine)
    defence = make(f"inspect:{site.url}/v1")

    assert [each.failure for each in defence.judge([ATTACK])] == [failure]
    defence.close()


def test_moderations_score_by_their_highest_category(site: Site) -> None:
    """And with the flag alone where there are no scores."""
    site.answers["/moderate"] = lambda body: (
        200,
        {
            "results": [
                {"flagged": hit, "category_scores": {"a": 0.2, "b": 0.2 + 0.6 * hit}} if hit else {"flagged": hit}
                for hit in found(body["input"])
            ]
        },
    )
    defence = make(f"moderations:{site.url}/moderate#m")

    attack, plain = defence.judge([ATTACK, PLAIN])
    defence.close()

    assert attack.score == pytest.approx(0.8)
    assert attack.flagged
    assert (plain.score, plain.flagged) == (0.0, False)
    assert site.bodies[-1]["model"] == "m"


def says(content: Any, **more: Any) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": content}, "finish_reason": "stop", **more}]}


@pytest.mark.parametrize(
    ("answer", "flagged"),
    [
        (says("I\u2019m sorry, but I can\u2019t help with that."), True),
        (says("I cannot assist with this request."), True),
        (says(""), True),
        (says("   "), True),
        (says(None), True),
        (says("Of course! Here it is."), False),
        (says("x" * 300 + " I cannot help with it"), False),
        (says("Sure", finish_reason="content_filter"), True),
        ((403, {"error": {"message": "blocked"}}), True),
        ((451, b""), True),
        ((400, {"error": {"code": "content_filter"}}), True),
    ],
)
def test_a_chat_endpoint_defends_by_refusing(site: Site, answer: tuple[int, Any], *, flagged: bool) -> None:
    """A refusal, an empty answer or a block is a find; every other answer is a pass."""
    site.answers["/v1/chat/completions"] = lambda body: (
        answer if found([body["messages"][0]["content"]])[0] else says("Half past nine.")
    )
    defence = make(f"chat:{site.url}#m")

    (judged,) = defence.judge([ATTACK])
    defence.close()

    assert (judged.flagged, judged.failure) == (flagged, "")
    assert judged.score == float(flagged)


@pytest.mark.parametrize(
    "answer",
    [(400, {"error": {"code": "bad_model"}}), (429, {}), (500, b""), (302, b""), (200, {}), (200, b"x"), says(7)],
)
def test_a_chat_endpoint_that_does_not_answer_is_a_failure(site: Site, answer: tuple[int, Any]) -> None:
    """An error is no refusal."""
    site.answers["/v1/chat/completions"] = lambda body: (
        answer if found([body["messages"][0]["content"]])[0] else says("Half past nine.")
    )
    defence = make(f"chat:{site.url}#m")

    (judged,) = defence.judge([ATTACK])
    defence.close()

    assert judged.failure
    assert judged.flagged is None


@pytest.mark.parametrize("answer", [(403, {}), (401, {}), says("I cannot help with that.")])
def test_an_endpoint_that_stops_a_harmless_sentence_is_not_measured(site: Site, answer: tuple[int, Any]) -> None:
    """A wrong key would look like a defence that finds everything."""
    site.answers["/v1/chat/completions"] = lambda _: answer

    with pytest.raises(ConfigError, match=KEY if answer[0] == 401 else "harmless"):
        _judge_with_hint(make(f"chat:{site.url}#m"))


def _judge_with_hint(defence: Any) -> None:
    try:
        defence.judge([PLAIN])
    except ConfigError as error:
        raise ConfigError(f"{error} {error.hint}") from None
    finally:
        defence.close()


def test_an_endpoint_that_is_not_there_is_an_error() -> None:
    """Not a thousand failures, one error."""
    defence = make("inspect:http://127.0.0.1:9")

    with pytest.raises(ConfigError, match="no connection"):
        defence.judge([PLAIN])


def test_a_server_that_goes_away_in_between_is_a_failure(site: Site) -> None:
    """Of the texts that are asked then."""
    site.answers["/v1/chat/completions"] = lambda _: says("Half past nine.")
    defence = make(f"chat:{site.url}#m")
    assert not defence.judge([PLAIN])[0].failure

    site.answers.clear()
    (judged,) = defence.judge([PLAIN])
    defence.close()

    assert judged.failure == "http 500"


def test_a_refusal_is_told_by_how_an_answer_begins() -> None:
    """Not by a quotation later on."""
    assert refuses("Sorry, I can't do this.")
    assert not refuses("The letter says: " + "a" * 300 + "I cannot help with this.")
