# SPDX-License-Identifier: Apache-2.0
"""The one path: a detector judges, the policy decides, the journal records, the share offers, one verdict returns.

Whoever can wait for the disk elsewhere (the gateway, while the upstream works) takes `judge` and awaits `recorded`
where it must be true; everyone else takes `inspect`, which waits.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from shieldwall.core.entry import EntryType, seal_entry
from shieldwall.core.event import Direction, Event, Segment, Surface, event_id, utc
from shieldwall.core.ports import Detector, Journal, Policy, Recorded, Share, StreamJudge
from shieldwall.core.verdict import Category, Decision, Finding, Findings, Tier, Verdict, attack_score

__all__ = ["Guard", "Judgement", "Surroundings"]

_SUBJECTS = 65_536
"""Pseudonyms kept in memory; computing one again costs a microsecond."""


_MAX_FINDINGS = 256
"""Findings that a verdict names and the journal keeps; the decision is made on all of them."""


_LATE = Finding(rule="shieldwall.degraded.deadline.1", category=Category.DEGRADED, score=0.0)
"""What the policy is asked about where a deadline was missed. No finding: at another time the same text is in time."""


class Surroundings(NamedTuple):
    """What core does not have: time, chance and a name. The node gives them."""

    clock: Callable[[], int]
    """Nanoseconds since the epoch."""
    ticks: Callable[[], int]
    """Nanoseconds of a monotonic clock, for durations."""
    entropy: Callable[[int], bytes]
    """That many unpredictable bytes."""
    node: str = "local"
    """Name of this node in the log."""
    subject_key: bytes = b""
    """Secret under which principals become pseudonyms in the log."""
    aside: Callable[[Callable[[Event], list[Finding]], Event], Awaitable[list[Finding]]] | None = None
    """Runs a function where it stops nobody else, such as in a thread; None to run it at once."""


class Judgement(NamedTuple):
    """A verdict, and the promise that it is on disk."""

    verdict: Verdict
    recorded: Recorded | None
    """None where no journal is configured."""


class Guard:
    """Inspects events. One per node; safe to call from the node's loop, or from threads when it has a loop of none."""

    def __init__(
        self,
        *,
        detector: Detector,
        policy: Policy,
        surroundings: Surroundings,
        journal: Journal | None = None,
        share: Share | None = None,
    ) -> None:
        self._detector = detector
        self._policy = policy
        self._journal = journal
        self._share = share
        self._at = surroundings
        self._subjects: dict[tuple[str, str], str] = {}

    def judge(self, event: Event, *, content: bytes = b"", also: Sequence[Finding] = ()) -> Judgement:
        """Judge, decide, record and offer, without waiting for the disk.

        Args:
            event: What to judge.
            content: SHA-256 of the message as it came over the wire; committed to in the record, never stored.
            also: Findings made on the way here, such as parts that could not be decoded.

        Raises:
            Overloaded, JournalError: The verdict could not be recorded; then nothing may pass.
        """
        start = self._at.ticks()
        found = self.find(event)
        return self._judged(event, found, start, content, also)

    async def ajudge(self, event: Event, *, content: bytes = b"", also: Sequence[Finding] = ()) -> Judgement:
        """What `judge` does, for a loop: what takes long is done aside."""
        start = self._at.ticks()
        found = self._detector.quick(event)
        if found is None:
            aside = self._at.aside
            found = self.find(event) if aside is None else await aside(self.find, event)
        return self._judged(event, found, start, content, also)

    def _judged(
        self, event: Event, found: list[Finding], start: int, content: bytes, also: Sequence[Finding]
    ) -> Judgement:
        tiers: tuple[Tier, ...] = ()
        complete = True
        if isinstance(found, Findings):
            tiers, complete = found.tiers, found.complete
        judged_ns = self._at.ticks() - start
        if also:
            score = attack_score(found)
            found = Findings([*also, *found], score=score)
        decision = None
        if not complete:
            decision = self._policy.decide(event, [*found, _LATE])
            decision = msgspec.structs.replace(decision, reason=decision.reason or Category.DEGRADED.value)
        return self.conclude(
            event, found, content=content, judged_ns=judged_ns, complete=complete, tiers=tiers, decision=decision
        )

    def find(self, event: Event) -> list[Finding]:
        """What the detector says, and nothing else."""
        return self._detector.judge(event)

    def stream(self, event: Event) -> StreamJudge:
        """Judge of one field that is still arriving; its findings go to `decide` and, at the end, `conclude`."""
        return self._detector.stream(event)

    def decide(self, event: Event, findings: Sequence[Finding]) -> Decision:
        """What the policy says of these findings so far. Records nothing."""
        return self._policy.decide(event, findings)

    def conclude(
        self,
        event: Event,
        findings: Sequence[Finding],
        *,
        content: bytes = b"",
        judged_ns: int = 0,
        complete: bool = True,
        tiers: tuple[Tier, ...] = (),
        decision: Decision | None = None,
    ) -> Judgement:
        """Decide on all findings of an event, record the verdict and offer it.

        `decision` stands where no policy is asked: input that cannot be read is refused whatever the policy says.
        """
        if decision is None:
            decision = self._policy.decide(event, findings)
        verdict = Verdict(
            event=event.id,
            action=decision.action,
            score=attack_score(findings),
            findings=tuple(findings[:_MAX_FINDINGS]),
            policy=decision.policy,
            complete=complete,
            tiers=tiers or (Tier("rules", judged_ns // 1_000),),
        )
        recorded = self._record(event, verdict, content, decision.reason)
        if self._share is not None:
            self._share.offer(event, verdict)
        return Judgement(verdict, recorded)

    def inspect(self, event: Event) -> Verdict:
        """Judge an event and return once the verdict is durable. For threads; in a loop use `ainspect`."""
        verdict, recorded = self.judge(event, content=_content(event))
        return verdict if recorded is None else msgspec.structs.replace(verdict, entry=recorded.result())

    async def ainspect(self, event: Event) -> Verdict:
        """Judge an event and return once the verdict is durable."""
        verdict, recorded = await self.ajudge(event, content=_content(event))
        return verdict if recorded is None else msgspec.structs.replace(verdict, entry=await recorded)

    def inspect_text(self, text: str, surface: Surface | str = Surface.PROMPT) -> Verdict:
        """Judge one text, as `inspect` does.

        Raises:
            ValueError: `surface` is not one of the words of `Surface`.
        """
        return self.inspect(self.event(text, Surface(surface)))

    async def ainspect_text(self, text: str, surface: Surface | str = Surface.PROMPT) -> Verdict:
        """Judge one text, as `ainspect` does."""
        return await self.ainspect(self.event(text, Surface(surface)))

    def event(self, text: str, surface: Surface = Surface.PROMPT) -> Event:
        """An event of one segment, with a fresh id and the time of now."""
        now = self._at.clock()
        direction = Direction.RESPONSE if surface is Surface.RESPONSE else Direction.REQUEST
        return Event(
            id=event_id(now, self._at.entropy(10)),
            time=utc(now),
            route="inspect",
            direction=direction,
            segments=(Segment(text, surface=surface),),
        )

    def _record(self, event: Event, verdict: Verdict, content: bytes, reason: str) -> Recorded | None:
        if self._journal is None:
            return None
        entry, opening = seal_entry(
            type=EntryType.DECISION_REQUEST if event.direction is Direction.REQUEST else EntryType.DECISION_RESPONSE,
            time=int(event.time.timestamp() * 1_000_000),
            node=self._at.node,
            event=event.id,
            subject=self._subject(event.tenant, event.principal),
            policy=verdict.policy.digest,
            model=event.model[:128],
            action=verdict.action.value,
            score=round(verdict.score * 1_000_000),
            findings=[msgspec.to_builtins(finding) for finding in verdict.findings],
            fields={
                "content": content.hex(),
                "dialect": event.dialect,
                "principal": event.principal,
                "reason": reason,
                "route": event.route,
                "session": event.session,
                "tenant": event.tenant,
            },
            secret=self._at.entropy(32),
        )
        return self._journal.append(entry, opening)

    def _subject(self, tenant: str, principal: str) -> str:
        known = self._subjects.get((tenant, principal))
        if known is None:
            if len(self._subjects) >= _SUBJECTS:
                self._subjects.clear()
            material = json.dumps((tenant, principal), ensure_ascii=True).encode()
            known = hashlib.blake2b(material, key=self._at.subject_key[:64], digest_size=16).hexdigest()
            self._subjects[(tenant, principal)] = known
        return known


def _content(event: Event) -> bytes:
    """Digest of an event that did not come over a wire: its texts, each with its place."""
    texts = [(segment.path, segment.text) for segment in event.segments]
    try:
        data = msgspec.json.encode(texts)
    except UnicodeEncodeError:
        # Half of a surrogate pair has no UTF-8; escaped it does, and a Python caller may well pass one.
        data = json.dumps(texts, separators=(",", ":")).encode()
    return hashlib.sha256(data).digest()
