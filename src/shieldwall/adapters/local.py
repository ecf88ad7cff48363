# SPDX-License-Identifier: Apache-2.0
"""Ports for one process: an in-memory bus, and a share that offers every verdict to whoever watches.

A message that nobody can take in time is dropped for that reader, oldest first: watching never slows what is watched.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from weakref import WeakSet

import msgspec

from shieldwall.core.event import Event
from shieldwall.core.verdict import Verdict

__all__ = ["BusShare", "MemoryBus", "Seen"]

_QUEUED = 1_000
"""Messages a slow reader may be behind, per subscription."""


class MemoryBus:
    """`Bus` inside one event loop."""

    def __init__(self) -> None:
        # Weak: a reader that went away, even one that never began to read, is not written to.
        self._topics: dict[str, WeakSet[_Subscription]] = {}

    def publish(self, topic: str, message: bytes) -> None:
        """Hand the message to every subscription that is open now."""
        for subscription in self._topics.get(topic) or ():
            subscription.put(message)

    def subscribe(self, topic: str) -> AsyncIterator[bytes]:
        """Open at once; over when the iteration is closed or nobody holds it any more."""
        subscription = _Subscription()
        self._topics.setdefault(topic, WeakSet()).add(subscription)
        return self._read(topic, subscription)

    async def _read(self, topic: str, subscription: "_Subscription") -> AsyncIterator[bytes]:
        try:
            while True:
                yield await subscription.get()
        finally:
            self._topics[topic].discard(subscription)


class _Subscription:
    __slots__ = ("__weakref__", "_messages", "_ready")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque(maxlen=_QUEUED)
        self._ready = asyncio.Event()

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._ready.set()

    async def get(self) -> bytes:
        while not self._messages:
            self._ready.clear()
            await self._ready.wait()
        return self._messages.popleft()


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a watcher sees of a verdict: where, what, why; never the text."""

    event: str
    time: str
    direction: str
    tenant: str
    principal: str
    model: str
    route: str
    action: str
    score: float
    rules: tuple[str, ...]
    policy: str
    us: int


class BusShare:
    """`Share` that keeps the latest verdicts and publishes each on the topic `verdicts`."""

    def __init__(self, bus: MemoryBus, *, kept: int = 200) -> None:
        self._bus = bus
        self.latest: deque[Seen] = deque(maxlen=kept)
        """The latest verdicts, newest last."""
        self.counts: dict[str, int] = {}
        """Verdicts since start, by action."""

    def offer(self, event: Event, verdict: Verdict) -> None:
        """Keep it, count it, publish it."""
        seen = Seen(
            event=event.id,
            time=event.time.isoformat(timespec="milliseconds"),
            direction=event.direction.value,
            tenant=_utf8(event.tenant),
            principal=_utf8(event.principal),
            model=_utf8(event.model[:128]),
            route=_utf8(event.route),
            action=verdict.action.value,
            score=verdict.score,
            rules=tuple(finding.rule for finding in verdict.findings[:8]),
            policy=verdict.policy.id,
            us=sum(tier.us for tier in verdict.tiers),
        )
        self.latest.append(seen)
        self.counts[seen.action] = self.counts.get(seen.action, 0) + 1
        self._bus.publish("verdicts", msgspec.json.encode(seen))


def _utf8(text: str) -> str:
    """The text with `?` for half of a surrogate pair, which has no UTF-8: offering never fails for a name."""
    return text.encode("utf-8", "replace").decode()
