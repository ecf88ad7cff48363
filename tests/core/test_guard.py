# SPDX-License-Identifier: Apache-2.0
"""The one path: detect, decide, record, share; nothing passes that is not on record, and no record holds the text."""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.entry import EntryType, open_field, open_findings, read_entry
from shieldwall.core.errors import JournalError, Overloaded
from shieldwall.core.event import Direction, Event, Segment, Surface, utc
from shieldwall.core.guard import Guard, Judgement, Surroundings
from shieldwall.core.verdict import Action, Category, Decision, Finding, PolicyRef, Verdict, strictest

PLANTED = "violet-anvil-4711"
DIGEST = "ab" * 32
NOW = 1_767_323_045_000_006_000


def finding(category: Category = Category.INJECTION, score: float = 0.9, **more: Any) -> Finding:
    return Finding(rule=f"owner.{category.value}.name.1", category=category, score=score, **more)


class Steps(list[str]):
    """What happened, in order."""


class Finder:
    """A detector that says what it was told to say."""

    def __init__(self, steps: Steps, findings: Sequence[Finding] = ()) -> None:
        self.steps, self.findings = steps, findings

    def judge(self, event: Event) -> list[Finding]:
        self.steps.append("detect")
        return list(self.findings)

    def quick(self, event: Event) -> list[Finding] | None:
        return self.judge(event)

    def stream(self, event: Event) -> Any:
        return ("stream of", event)


class Blocker:
    """A policy that blocks on any finding, or does as told."""

    def __init__(self, steps: Steps, action: Action | None = None) -> None:
        self.steps, self.action = steps, action
        self.seen: list[Finding] = []

    def decide(self, event: Event, findings: Sequence[Finding]) -> Decision:
        self.steps.append("decide")
        self.seen = list(findings)
        action = self.action or (Action.BLOCK if findings else Action.ALLOW)
        return Decision(action=action, policy=PolicyRef("rule", DIGEST), reason="because")


class Promise:
    """`Recorded` over a future that the test resolves."""

    def __init__(self) -> None:
        self.future: Future[int] = Future()

    def __await__(self) -> Generator[Any, None, int]:
        return (yield from asyncio.wrap_future(self.future))

    def result(self, timeout: float | None = None) -> int:
        return self.future.result(timeout)


class Book:
    """A journal in memory; durable at once unless told to be slow, or it refuses."""

    def __init__(self, steps: Steps, *, slow: bool = False, refuses: Exception | None = None) -> None:
        self.steps, self.slow, self.refuses = steps, slow, refuses
        self.entries: list[tuple[bytes, bytes]] = []
        self.promises: list[Promise] = []

    def append(self, entry: bytes, opening: bytes = b"") -> Promise:
        self.steps.append("record")
        if self.refuses is not None:
            raise self.refuses
        self.entries.append((entry, opening))
        self.promises.append(promise := Promise())
        if not self.slow:
            promise.future.set_result(len(self.entries) - 1)
        return promise


class Teller:
    """A share that remembers."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.offered: list[tuple[Event, Verdict]] = []

    def offer(self, event: Event, verdict: Verdict) -> None:
        self.steps.append("share")
        self.offered.append((event, verdict))


class World:
    """A guard and everything around it."""

    def __init__(self, *findings: Finding, action: Action | None = None, keeps: bool = True, **book: Any) -> None:
        self.steps = Steps()
        self.policy = Blocker(self.steps, action)
        self.book = Book(self.steps, **book)
        self.share = Teller(self.steps)
        self.ticks = iter(range(0, 10**12, 5_000_000))
        self.guard = Guard(
            detector=Finder(self.steps, findings),
            policy=self.policy,
            surroundings=Surroundings(lambda: NOW, lambda: next(self.ticks), self.entropy, "node-1", b"k" * 32),
            journal=self.book if keeps else None,
            share=self.share,
        )
        self.drawn = 0

    def entropy(self, size: int) -> bytes:
        """Unlike at every call."""
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")


def event(*texts: str, **more: Any) -> Event:
    segments = tuple(Segment(text, path=f"/messages/{index}") for index, text in enumerate(texts))
    return Event(id="0190a0b0-0000-7000-8000-000000000001", time=utc(NOW), segments=segments, **more)


def test_the_path_is_detect_decide_record_share() -> None:
    """In this order, each once."""
    world = World(finding())

    world.guard.inspect(event("x"))

    assert world.steps == ["detect", "decide", "record", "share"]


def test_a_verdict_says_what_was_decided_and_why() -> None:
    """Event, action, score, findings, policy, time and entry."""
    found = finding(score=0.8)
    verdict = World(found).guard.inspect(event("x"))

    assert (verdict.event, verdict.action, verdict.score) == (event().id, Action.BLOCK, 0.8)
    assert (verdict.findings, verdict.policy) == ((found,), PolicyRef("rule", DIGEST))
    assert (verdict.entry, verdict.complete) == (0, True)
    assert [(tier.name, tier.us) for tier in verdict.tiers] == [("rules", 5_000)]


def test_findings_made_on_the_way_are_decided_on_too() -> None:
    """What could not be decoded reaches the policy beside what the detector found, first."""
    world = World(finding())
    uninspected = finding(Category.UNINSPECTED, 0.0)

    verdict, _ = world.guard.judge(event("x"), also=[uninspected])

    assert world.policy.seen == [uninspected, finding()]
    assert verdict.findings == (uninspected, finding())


@pytest.mark.parametrize("refusal", [Overloaded("full"), JournalError("broken disk")])
async def test_nothing_passes_that_cannot_be_recorded(refusal: Exception) -> None:
    """Every way through the guard raises when the journal does, and the share is told nothing."""
    world = World(refuses=refusal)
    ways: list[Callable[[], object]] = [
        lambda: world.guard.inspect(event("x")),
        lambda: world.guard.inspect_text("x"),
        lambda: world.guard.judge(event("x")),
        lambda: world.guard.conclude(event("x"), []),
    ]

    for way in ways:
        with pytest.raises(type(refusal)):
            way()
    for late in (world.guard.ainspect(event("x")), world.guard.ainspect_text("x")):
        with pytest.raises(type(refusal)):
            await late

    assert world.share.offered == []


def test_inspect_waits_until_the_verdict_is_durable() -> None:
    """A thread gets its verdict only once the journal has said that it is on disk."""
    world = World(slow=True)
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(world.guard.inspect(event("x"))))
    thread.start()
    while not world.book.promises:
        thread.join(0.001)
    thread.join(0.05)
    before = (thread.is_alive(), list(verdicts))
    world.book.promises[0].future.set_result(41)
    thread.join(10)

    assert before == (True, [])
    assert [verdict.entry for verdict in verdicts] == [41]


async def test_ainspect_waits_until_the_verdict_is_durable() -> None:
    """So does a task, and the loop goes on meanwhile."""
    world = World(slow=True)
    task = asyncio.create_task(world.guard.ainspect(event("x")))
    # Turns of the loop, many more than the way to the journal takes.
    for _ in range(100):
        await asyncio.sleep(0)
    before = task.done()
    world.book.promises[0].future.set_result(41)

    assert before is False
    assert (await task).entry == 41


async def test_a_record_that_never_becomes_durable_is_no_verdict() -> None:
    """The promise breaks: both ways of inspecting raise instead of answering."""
    for wait in (True, False):
        world = World(slow=True)
        judged = world.guard.judge(event("x"))
        world.book.promises[0].future.set_exception(JournalError("broken disk"))

        assert judged.recorded is not None
        with pytest.raises(JournalError):
            await judged.recorded if wait else judged.recorded.result()


def test_judge_does_not_wait() -> None:
    """The gateway asks the upstream meanwhile: the verdict is there, its entry is not."""
    world = World(finding(), slow=True)

    verdict, recorded = world.guard.judge(event("x"))

    assert (verdict.action, verdict.entry) == (Action.BLOCK, None)
    assert recorded is world.book.promises[0]
    assert not world.book.promises[0].future.done()


def test_without_a_journal_nothing_is_recorded() -> None:
    """A guard that keeps nothing answers all the same, with no entry."""
    world = World(finding(), keeps=False)

    judgement = world.guard.judge(event("x"))

    assert judgement == Judgement(world.share.offered[0][1], None)
    assert world.guard.inspect(event("x")).entry is None
    assert world.book.entries == []


@pytest.mark.parametrize("category", Category)
def test_only_attacks_on_the_model_make_a_score(category: Category) -> None:
    """The action may follow any finding; the score speaks of injection, jailbreak and extraction."""
    verdict = World(finding(category, 0.9)).guard.inspect(event("x"))

    attack = category in {Category.INJECTION, Category.JAILBREAK, Category.EXTRACTION}
    assert verdict.action is Action.BLOCK
    assert verdict.score == (0.9 if attack else 0.0)


def test_a_policy_that_only_observes_is_obeyed() -> None:
    """In observe the policy asks for `flag`; finding, score and record are as in enforce."""
    world = World(finding(score=1.0), action=Action.FLAG)

    verdict = world.guard.inspect(event("x"))

    assert (verdict.action, verdict.action.stops, verdict.score) == (Action.FLAG, False, 1.0)
    assert read_entry(world.book.entries[0][0]).action == "flag"


def test_a_given_decision_stands_in_for_the_policy() -> None:
    """Input that cannot be read is refused whatever the policy says."""
    world = World(action=Action.ALLOW)
    decision = Decision(action=Action.BLOCK, policy=PolicyRef("gateway.invalid_input", ""), reason="invalid_input")

    verdict, _ = world.guard.conclude(event("x"), [finding(Category.UNINSPECTED, 0.0)], decision=decision)

    assert verdict.action is Action.BLOCK
    assert world.steps == ["record", "share"]


def test_a_verdict_names_at_most_256_findings_and_decides_on_all() -> None:
    """The strictest finding counts wherever it stands, and a flood of findings does not flood the log."""
    many = [finding(Category.LEAK, 0.1)] * 300 + [finding(score=1.0)]
    world = World(*many)

    verdict = world.guard.inspect(event("x"))

    assert len(world.policy.seen) == 301
    assert (len(verdict.findings), verdict.score) == (256, 1.0)
    assert len(world.book.entries[0][0]) <= 4096


def test_an_entry_says_what_was_decided() -> None:
    """Type by direction, time, node, policy, action and score; fields and findings open with the opening."""
    world = World(finding(score=0.25, span=(1, 2)))
    asked = event("x", tenant="acme", principal="ann", model="small", route="/v1/x", dialect="openai", session="s")
    answered = Event(id="b", time=utc(NOW), direction=Direction.RESPONSE, segments=asked.segments)

    world.guard.judge(asked, content=b"\x07" * 32)
    world.guard.judge(answered)
    (data, opening), (other, _) = world.book.entries
    entry = read_entry(data)

    assert (entry.type, read_entry(other).type) == (EntryType.DECISION_REQUEST, EntryType.DECISION_RESPONSE)
    assert (entry.time, entry.node, entry.event) == (NOW // 1_000, "node-1", asked.id)
    assert (entry.policy, entry.action, entry.score, entry.model) == (DIGEST, "block", 250_000, "small")
    disclosed = {name: open_field(opening, name)[0] for name in entry.fields}
    assert disclosed == {
        "content": "07" * 32,
        "dialect": "openai",
        "principal": "ann",
        "reason": "because",
        "route": "/v1/x",
        "session": "s",
        "tenant": "acme",
    }
    assert open_findings(opening)[0][0]["rule"] == "owner.injection.name.1"


def test_no_record_holds_the_text() -> None:
    """Neither entry nor opening nor verdict repeats what was said, in any usual writing of it."""
    world = World(finding(path="/messages/0"))
    written = [PLANTED.encode(), PLANTED.encode().hex().encode(), PLANTED.encode("utf-16-le")]

    for surface in Surface:
        verdict = world.guard.inspect_text(f"please {PLANTED} now", surface)
        assert PLANTED not in repr(verdict)
    world.guard.inspect(event(PLANTED, PLANTED[::-1]))

    assert len(world.book.entries) == len(Surface) + 1
    kept = b"\n".join(data for pair in world.book.entries for data in pair)
    assert not any(form in kept for form in written)


def test_a_principal_stands_in_the_log_as_a_pseudonym() -> None:
    """One principal of one tenant is one subject, its namesake elsewhere another; the name is not there."""
    world = World()

    for tenant, principal in (("acme", "ann-lee"), ("acme", "ann-lee"), ("bolt", "ann-lee"), ("acme", "bob-ray")):
        world.guard.judge(event("x", tenant=tenant, principal=principal))
    entries = [data for data, _ in world.book.entries]
    subjects = [read_entry(data).subject for data in entries]

    assert subjects[0] == subjects[1]
    assert len(set(subjects)) == 3
    assert b"ann-lee" not in b"".join(entries)


def test_memory_for_pseudonyms_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many principals come by, a bounded number is remembered, and each keeps its subject."""
    monkeypatch.setattr("shieldwall.core.guard._SUBJECTS", 4)
    world = World()
    world.guard.judge(event("x", principal="p0"))

    for number in range(20):
        world.guard.judge(event("x", principal=f"p{number}"))
    world.guard.judge(event("x", principal="p0"))
    subjects = [read_entry(data).subject for data, _ in world.book.entries]

    assert len(world.guard._subjects) <= 4
    assert subjects[0] == subjects[1] == subjects[-1]


def test_the_record_commits_to_text_and_place() -> None:
    """Events of the same text at the same place have one content digest; any other has another."""
    world = World()

    for each in (event("a", "b"), event("a", "b"), event("ab"), event("b", "a")):
        world.guard.inspect(each)
    contents = [open_field(opening, "content")[0] for _, opening in world.book.entries]

    assert contents[0] == contents[1]
    assert len(set(contents)) == 3


@given(st.text(), st.sampled_from(Surface))
def test_any_text_gets_a_verdict(text: str, surface: Surface) -> None:
    """Also half of a surrogate pair, which Python's strings can hold and UTF-8 cannot."""
    world = World(finding())

    verdict = world.guard.inspect_text(text, surface)
    lonely = world.guard.inspect_text(f"{text}\ud800", surface)

    assert (verdict.entry, lonely.entry) == (0, 1)


def test_inspect_text_makes_an_event_of_one_segment() -> None:
    """Surface by word or by value; what a model wrote counts as a response; each event has an id of its own."""
    world = World()

    world.guard.inspect_text("x", "tool_result")
    world.guard.inspect_text("x", Surface.RESPONSE)
    (first, _), (second, _) = world.share.offered

    assert [each.segments[0].surface for each in (first, second)] == [Surface.TOOL_RESULT, Surface.RESPONSE]
    assert [each.direction for each in (first, second)] == [Direction.REQUEST, Direction.RESPONSE]
    assert first.id != second.id
    assert first.time == utc(NOW)


def test_an_unknown_surface_is_refused() -> None:
    """A word that is not one of `Surface` is the caller's mistake; nothing is judged or recorded."""
    world = World()

    with pytest.raises(ValueError, match="whisper"):
        world.guard.inspect_text("x", "whisper")

    assert world.steps == []


def test_streams_are_the_detectors() -> None:
    """The guard hands out the detector's judge of a field and asks the policy without recording."""
    world = World()

    judge: Any = world.guard.stream(event("x"))
    decision = world.guard.decide(event("x"), [finding()])

    assert judge == ("stream of", event("x"))
    assert decision.action is strictest([Action.BLOCK])
    assert world.steps == ["decide"]
