# SPDX-License-Identifier: Apache-2.0
"""What the columns promise each other. `node.py` fills these seams; nothing else joins two columns."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from shieldwall.core.event import Event
from shieldwall.core.sketch import Match, Meaning, Sketch
from shieldwall.core.verdict import Decision, Finding, Verdict

__all__ = ["Bus", "Canaries", "Detector", "Journal", "Policy", "Recorded", "Share", "Signatures", "StreamJudge"]


class StreamJudge(Protocol):
    """Judges one field whose bytes arrive in pieces.

    Findings are a pure function of the field's bytes: any cutting of the same bytes gives the same set.
    """

    def feed(self, data: bytes) -> tuple[int, Sequence[Finding]]:
        """Take the next bytes of the field (UTF-8, cut anywhere).

        Returns:
            How many bytes of the field, counted from its start, may leave now; and what was newly found.
        """

    def skim(self, data: bytes) -> int | None:
        """Take the next bytes if nothing new can be found in them, and say how many of the field may leave.

        Returns:
            None where that is not certain; then nothing was taken, and `feed` is the way. Never any judge's duty.
        """

    def end(self) -> Sequence[Finding]:
        """The field is over: what was still found. All of it may leave now."""


class Detector(Protocol):
    """Finds things in an event. Has no side effects and keeps nothing of the event."""

    def judge(self, event: Event) -> list[Finding]:
        """Findings of all segments, in order of segment, then of span."""

    def quick(self, event: Event) -> list[Finding] | None:
        """The same, for a caller that others wait for: None where it would take long, then `judge` is the way."""

    def stream(self, event: Event) -> StreamJudge:
        """Judge of one field that is still arriving; `event` holds one segment that says which, its text empty."""


class Policy(Protocol):
    """Turns findings into an action."""

    def decide(self, event: Event, findings: Sequence[Finding]) -> Decision:
        """The strictest action any rule of the policy asks for, and which rule that was."""


class Recorded(Protocol):
    """A promise of durability: await it in a loop, or wait for it in a thread."""

    def __await__(self) -> Any:  # noqa: ANN401  a generator protocol, typed by its result below
        """Wait until the entry is durable; gives its index. Raises JournalError when it never will be."""

    def result(self, timeout: float | None = None) -> int:
        """The same for a thread that has no loop. Raises TimeoutError."""


class Journal(Protocol):
    """Where decisions are recorded."""

    def append(self, entry: bytes, opening: bytes = b"") -> Recorded:
        """Take an entry and return at once; the result is its index, known once it is durable.

        Args:
            entry: Canonical bytes, at most 4 KiB: the leaf of the log.
            opening: Kept beside the entry, not part of the leaf: what is needed to disclose its fields.

        Raises:
            Overloaded: Too much is waiting; nothing was written.
            JournalError: The disk failed earlier; nothing was written.
        """


class Share(Protocol):
    """Offers what was decided to others. Never blocks, never raises."""

    def offer(self, event: Event, verdict: Verdict) -> None:
        """Called once per verdict, after it was decided."""


class Signatures(Protocol):
    """Knows texts by their sketches and finds them again, changed or wrapped. All sketches are under one key."""

    def match(self, sketch: Sketch) -> list[Match]:
        """Known texts of which a piece stands in the sketched text, best first.

        Raises:
            InvalidInput: The sketch was made under another key.
        """

    def insert(self, sketch: Sketch, meaning: Meaning) -> None:
        """Know a text from now on: the next `match` finds it. The same sketch again replaces its meaning.

        Raises:
            InvalidInput: The sketch was made under another key, is not well formed, or has too little to compare.
            LimitExceeded: No more can be held.
        """


class Canaries(Protocol):
    """Knows harmless texts: what would hit one of them must not go live."""

    def hits(self, sketch: Sketch) -> int:
        """How many harmless texts hold a piece of the sketch.

        Raises:
            InvalidInput: The sketch was made under another key.
        """


class Bus(Protocol):
    """Carries small messages. A slow reader loses the oldest of them, never the writer's time."""

    def publish(self, topic: str, message: bytes) -> None:
        """Hand the message to whoever subscribes now."""

    def subscribe(self, topic: str) -> AsyncIterator[bytes]:
        """Messages published from now on."""
