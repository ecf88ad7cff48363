# SPDX-License-Identifier: Apache-2.0
"""Watching never slows what is watched: the bus drops the oldest for a slow reader, the share never fails."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.adapters import BusShare, MemoryBus
from shieldwall.adapters.local import _QUEUED
from shieldwall.core.event import Event, Segment, utc
from shieldwall.core.verdict import Action, Category, Finding, PolicyRef, Tier, Verdict

PLANTED = "violet-anvil-4711"


async def take(messages: AsyncIterator[bytes], count: int) -> list[bytes]:
    """The next few messages; waits for them."""
    async with asyncio.timeout(10):
        return [await anext(messages) for _ in range(count)]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def open_now(bus: MemoryBus, topic: str) -> int:
    """How many subscriptions the bus would write to."""
    gc.collect()
    return len(bus._topics.get(topic) or ())


async def test_a_subscriber_gets_what_is_published_from_then_on() -> None:
    """In order, and nothing from before."""
    bus = MemoryBus()
    bus.publish("t", b"early")

    messages = bus.subscribe("t")
    for each in (b"1", b"2", b"3"):
        bus.publish("t", each)

    assert await take(messages, 3) == [b"1", b"2", b"3"]


async def test_every_subscriber_of_a_topic_gets_every_message() -> None:
    """And none of another topic."""
    bus = MemoryBus()
    readers = [bus.subscribe("t"), bus.subscribe("t"), bus.subscribe("other")]

    bus.publish("t", b"1")
    bus.publish("other", b"2")

    assert [await take(each, 1) for each in readers] == [[b"1"], [b"1"], [b"2"]]


async def test_a_waiting_reader_is_woken() -> None:
    """Also one that has already read everything once."""
    bus = MemoryBus()
    messages = bus.subscribe("t")

    got: list[bytes] = []
    for each in (b"1", b"2"):
        reading = asyncio.create_task(take(messages, 1))
        await settle()
        assert not reading.done()
        bus.publish("t", each)
        got += await reading

    assert got == [b"1", b"2"]


async def test_a_slow_reader_loses_the_oldest() -> None:
    """What is kept for it is bounded, and publishing goes on."""
    bus = MemoryBus()
    messages = bus.subscribe("t")

    for number in range(_QUEUED + 7):
        bus.publish("t", b"%d" % number)
    got = await take(messages, _QUEUED)

    assert (got[0], got[-1]) == (b"7", b"%d" % (_QUEUED + 6))


async def test_a_reader_that_left_is_forgotten() -> None:
    """Closed, dropped in mid-iteration, cancelled while waiting, or dropped before it began: nothing is kept."""
    bus = MemoryBus()

    closed: Any = bus.subscribe("t")
    bus.publish("t", b"1")
    await take(closed, 1)
    await closed.aclose()
    dropped = bus.subscribe("t")
    bus.publish("t", b"1")
    await take(dropped, 1)
    del dropped
    waiting = asyncio.create_task(take(bus.subscribe("t"), 1))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    del waiting
    never = bus.subscribe("t")
    assert open_now(bus, "t") >= 1
    del never
    await settle()

    assert open_now(bus, "t") == 0


async def test_a_subscription_lives_as_long_as_its_reader() -> None:
    """The bus holds it weakly, the reader strongly: a collection in between loses no message."""
    bus = MemoryBus()
    messages = bus.subscribe("t")

    gc.collect()
    bus.publish("t", b"1")
    reading = asyncio.create_task(take(messages, 2))
    await settle()
    gc.collect()
    bus.publish("t", b"2")

    assert await reading == [b"1", b"2"]


def test_publishing_to_nobody_is_nothing() -> None:
    """No topic is made for it, and no loop is needed."""
    bus = MemoryBus()

    bus.publish("t", b"1")

    assert bus._topics == {}


def event(**more: Any) -> Event:
    return Event(id="e", time=utc(1_767_323_045_123_456_000), segments=(Segment(PLANTED),), **more)


def verdict(action: Action = Action.BLOCK, findings: int = 1) -> Verdict:
    one = Finding(rule="owner.topic.name.1", category=Category.INJECTION, score=0.9, path=f"/{PLANTED}", span=(0, 6))
    tiers = (Tier("rules", 20), Tier("model", 22))
    return Verdict(
        event="e", action=action, score=0.9, findings=(one,) * findings, policy=PolicyRef("rule", "d"), tiers=tiers
    )


async def test_a_share_tells_where_what_and_why() -> None:
    """One message on `verdicts` for each: never the text, nor where in it."""
    bus = MemoryBus()
    messages = bus.subscribe("verdicts")

    BusShare(bus).offer(event(principal="ann", model="m" * 500), verdict(findings=20))
    told = msgspec.json.decode((await take(messages, 1))[0])

    assert PLANTED not in repr(told)
    assert (told["event"], told["time"], told["principal"]) == ("e", "2026-01-02T03:04:05.123+00:00", "ann")
    assert (told["action"], told["score"], told["policy"], told["us"]) == ("block", 0.9, "rule", 42)
    assert (len(told["model"]), told["rules"]) == (128, ["owner.topic.name.1"] * 8)


def test_a_share_counts_by_action_and_keeps_the_latest() -> None:
    """Counts since start are whole; of the verdicts themselves a bounded number stays, newest last."""
    share = BusShare(MemoryBus(), kept=3)

    for number in range(5):
        action = Action.FLAG if number % 2 else Action.ALLOW
        share.offer(event(route=f"/{number}"), verdict(action))

    assert share.counts == {"allow": 3, "flag": 2}
    assert [seen.route for seen in share.latest] == ["/2", "/3", "/4"]


words = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@given(words, words, words)
def test_offering_never_fails(model: str, route: str, principal: str) -> None:
    """Whatever a client called things, half of a surrogate pair included."""
    share = BusShare(MemoryBus())

    share.offer(event(model=model, route=route, principal=principal), verdict())
    share.offer(event(model="\ud800", route="\ud800", principal="\ud800"), verdict())

    assert share.counts == {"block": 2}


@pytest.mark.parametrize("findings", [0, 1])
def test_a_verdict_without_findings_is_told_too(findings: int) -> None:
    """Traffic that was allowed is part of the picture."""
    share = BusShare(MemoryBus())

    share.offer(event(), verdict(Action.ALLOW, findings))

    assert len(share.latest[0].rules) == findings
