# SPDX-License-Identifier: Apache-2.0
"""Events get ids and times that sort; actions have an order; the score speaks of attacks alone."""

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shieldwall.core.event import Event, Segment, event_id, utc
from shieldwall.core.verdict import Action, Category, Finding, PolicyRef, Verdict, attack_score, strictest

actions = st.lists(st.sampled_from(Action))
times_ns = st.integers(0, 4_102_444_800 * 10**9)  # 1970 to 2100


def finding(category: Category, score: float) -> Finding:
    return Finding(rule="owner.topic.name.1", category=category, score=score)


@given(actions)
@example([])
def test_the_strictest_action_is_the_highest_of_all(given_: list[Action]) -> None:
    """It is one of those given and none given is above it; `allow` when there are none."""
    found = strictest(given_)

    assert found in given_ or (not given_ and found is Action.ALLOW)
    assert all(each.rank <= found.rank for each in given_)


@given(actions)
def test_the_order_of_findings_does_not_matter(given_: list[Action]) -> None:
    """Whatever order rules fire in, the verdict is the same."""
    assert strictest(given_) is strictest(reversed(given_))


@given(st.lists(st.tuples(st.sampled_from(Category), st.floats(0, 1))))
def test_the_score_is_the_highest_of_the_attacks(parts: list[tuple[Category, float]]) -> None:
    """Injection, jailbreak and extraction count; every other category leaves the score alone."""
    attacks = {Category.INJECTION, Category.JAILBREAK, Category.EXTRACTION}

    score = attack_score(finding(*each) for each in parts)

    assert score == max([each for category, each in parts if category in attacks], default=0.0)


@given(times_ns, st.binary(min_size=10, max_size=10))
def test_an_event_id_is_a_uuid_of_version_7(time_ns: int, entropy: bytes) -> None:
    """RFC 9562: version, variant, and the time in its first 48 bits, milliseconds."""
    found = uuid.UUID(event_id(time_ns, entropy))

    assert str(found) == event_id(time_ns, entropy)
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == time_ns // 1_000_000


@given(times_ns, st.integers(1, 10**12), st.binary(min_size=20, max_size=20))
def test_event_ids_sort_by_time(time_ns: int, later_ms: int, entropy: bytes) -> None:
    """An id made a millisecond or more later sorts after, whatever the random part is."""
    first = event_id(time_ns, entropy[:10])
    second = event_id(time_ns + later_ms * 1_000_000, entropy[10:])

    assert first < second


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_74_bits_of_an_event_id_are_random(one: bytes, other: bytes) -> None:
    """Two ids of one moment differ where their entropy does, apart from the six bits of version and variant."""
    mask = ~(0xF << 76 | 0x3 << 62) & (1 << 80) - 1
    differ = (int.from_bytes(one) ^ int.from_bytes(other)) & mask != 0

    assert (event_id(0, one) != event_id(0, other)) is differ


@given(times_ns)
def test_a_time_is_utc_to_the_microsecond(time_ns: int) -> None:
    """Exact, cut down to microseconds, with its zone."""
    time = utc(time_ns)

    assert time.tzinfo is UTC
    assert time - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=time_ns // 1_000)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4), times_ns)
def test_an_event_survives_json(texts: list[str], time_ns: int) -> None:
    """Text of any script, and the time with its microseconds."""
    event = Event(id="a", time=utc(time_ns), segments=tuple(map(Segment, texts)))

    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_a_verdict_cannot_be_changed() -> None:
    """What was decided stays decided: words are frozen."""
    verdict = Verdict(event="a", action=Action.BLOCK, score=1.0, findings=(), policy=PolicyRef("p", ""))

    with pytest.raises(AttributeError, match="immutable"):
        setattr(verdict, "action", Action.ALLOW)  # noqa: B010  the type checker forbids it already
