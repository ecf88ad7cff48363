# SPDX-License-Identifier: Apache-2.0
"""The turns of one conversation are one session; another key, or another conversation, is another."""

from typing import Any

import msgspec
import pytest

from shieldwall.core.event import Segment
from shieldwall.gateway.anthropic import Anthropic
from shieldwall.gateway.dialect import Ask
from shieldwall.gateway.openai import OpenAI
from shieldwall.gateway.session import Sessions

Turn = tuple[str, str]
TALK: list[Turn] = [("user", "Hello"), ("assistant", "Good day"), ("user", "How tall is it?"), ("assistant", "330 m")]


def ask(*turns: Turn, dialect: Any = None, **more: Any) -> Ask:
    """A request as the dialect reads it from the wire."""
    messages = [{"role": role, "content": text} for role, text in turns]
    return (dialect or OpenAI()).ask(msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": messages, **more}))


@pytest.mark.parametrize("dialect", [OpenAI(), Anthropic()])
def test_the_turns_of_a_conversation_are_one_session(dialect: Any) -> None:
    """Each request repeats the conversation and adds to it; it keeps the id of the first."""
    sessions = Sessions()

    found = [sessions.of("key", ask(*TALK[:turns], dialect=dialect), f"fresh-{turns}") for turns in (1, 3, 4)]

    assert found == ["fresh-1"] * 3


def test_a_repeated_request_is_the_same_session() -> None:
    """A client that tries again has not begun to talk about something else."""
    sessions = Sessions()

    found = [sessions.of("key", ask(*TALK), fresh) for fresh in ("a", "b")]

    assert found == ["a", "a"]


def test_another_key_is_another_session() -> None:
    """The same words from two keys are two conversations."""
    sessions = Sessions()

    found = [sessions.of(key, ask(*TALK), f"fresh-{key}") for key in ("one", "two", "one")]

    assert found == ["fresh-one", "fresh-two", "fresh-one"]


@pytest.mark.parametrize(
    "other",
    [
        [("user", "Goodbye"), *TALK[1:]],
        [TALK[0], ("assistant", "Go away"), *TALK[2:]],
        [("user", "HelloGood day"), TALK[2]],
        [("user", "Hell"), ("assistant", "oGood day"), *TALK[2:]],
    ],
)
def test_another_conversation_is_another_session(other: list[Turn]) -> None:
    """Other words, or the same letters cut elsewhere, continue nothing that is known."""
    sessions = Sessions()
    sessions.of("key", ask(*TALK[:3]), "first")

    assert sessions.of("key", ask(*other), "second") == "second"


def test_one_message_of_two_parts_is_not_another_cut_elsewhere() -> None:
    """Parts of a message are told apart, not only messages."""
    sessions = Sessions()
    cuts = [("Good", "day"), ("Go", "odday")]
    asks = [ask(TALK[0])._replace(segments=tuple(map(Segment, cut)), turns=((0, 2),)) for cut in cuts]

    found = [sessions.of("key", each, f"fresh-{index}") for index, each in enumerate(asks)]

    assert found == ["fresh-0", "fresh-1"]


def test_the_longest_known_beginning_counts() -> None:
    """Where two sessions share their beginning, a request belongs to the one it repeats more of."""
    sessions = Sessions()
    sessions.of("key", ask(*TALK[:3]), "long")
    sessions.of("key", ask(*TALK[:1]), "short")
    other = [TALK[0], ("assistant", "Bonjour"), ("user", "Ça va ?")]

    found = [sessions.of("key", each, "fresh") for each in (ask(*TALK), ask(*other))]

    assert found == ["long", "short"]


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    """However many conversations come by, a bounded number is remembered: those seen last."""
    sessions = Sessions(remembered=10)

    for number in range(100):
        sessions.of("key", ask(("user", f"number {number}")), f"fresh-{number}")

    assert len(sessions._known) == 10
    assert sessions.of("key", ask(("user", "number 99")), "again") == "fresh-99"
    assert sessions.of("key", ask(("user", "number 0")), "again") == "again"


def test_what_is_used_is_not_the_oldest() -> None:
    """A conversation that goes on outlives those that came after it and went."""
    sessions = Sessions(remembered=3)
    sessions.of("key", ask(*TALK[:1]), "first")

    for number in range(10):
        sessions.of("key", ask(("user", f"number {number}")), "other")
        assert sessions.of("key", ask(*TALK[:1]), "again") == "first"


def test_any_text_has_a_session() -> None:
    """Half of a surrogate pair, nothing at all, or a request without turns: an id comes back."""
    sessions = Sessions()
    odd = ask(("user", "x"))
    odd = odd._replace(segments=tuple(msgspec.structs.replace(each, text="\ud800") for each in odd.segments))

    found = [sessions.of("key", each, "fresh") for each in (odd, odd._replace(segments=()), odd._replace(turns=()))]

    assert found == ["fresh"] * 3


def test_nothing_of_the_text_is_kept() -> None:
    """Digests of 16 bytes and ids are all that is remembered."""
    sessions = Sessions()
    sessions.of("key", ask(("user", "violet-anvil-4711")), "fresh")

    assert "violet" not in repr(sessions._known)
    assert [len(digest) for digest in sessions._known] == [16]
