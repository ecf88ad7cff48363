# SPDX-License-Identifier: Apache-2.0
"""What was found and what follows: findings, the action, the verdict.

A finding never repeats the matched text: it names the rule and the span, the reader of the message sees the rest.
"""

import enum
from collections.abc import Iterable

import msgspec

from shieldwall.core.event import Surface

__all__ = [
    "Action",
    "Category",
    "Decision",
    "Finding",
    "Findings",
    "PolicyRef",
    "Tier",
    "Verdict",
    "attack_score",
    "strictest",
]


class Action(enum.StrEnum):
    """What happens to the message, from mildest to strictest."""

    ALLOW = "allow"
    FLAG = "flag"
    REDACT = "redact"
    HOLD = "hold"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """Place in the order allow < flag < redact < hold < block."""
        return _RANK[self]

    @property
    def stops(self) -> bool:
        """Whether the message may not pass as it is. Hold acts as block until a person can be asked."""
        return _RANK[self] >= _RANK[Action.HOLD]


_RANK = {action: rank for rank, action in enumerate(Action)}


def strictest(actions: Iterable[Action]) -> Action:
    """The strictest of the actions, `allow` when there are none."""
    return max(actions, key=_RANK.__getitem__, default=Action.ALLOW)


class Category(enum.StrEnum):
    """What kind of thing a finding is."""

    INJECTION = "injection"
    JAILBREAK = "jailbreak"
    EXTRACTION = "extraction"
    HARMFUL = "harmful"
    LEAK = "leak"
    FLOW = "flow"
    CAMPAIGN = "campaign"
    INDICATOR = "indicator"
    INTEGRITY = "integrity"
    UNINSPECTED = "uninspected"
    DEGRADED = "degraded"


_ATTACKS = frozenset({Category.INJECTION, Category.JAILBREAK, Category.EXTRACTION})


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One detector's statement about one field of one event."""

    rule: str
    """Stable name, `owner.topic.name.number`, as it appears in reports."""
    category: Category
    technique: str = ""
    """MITRE ATLAS (`AML.T0051.000`) or OWASP LLM (`LLM01:2025`) id."""
    score: float
    """Calibrated probability of attack, 0 to 1; for a rule, its measured precision."""
    surface: Surface = Surface.UNKNOWN
    path: str = ""
    """JSON Pointer of the field."""
    span: tuple[int, int] | None = None
    """Half-open range in the original text of the field, code points."""
    detector: str = ""
    detector_version: str = ""


class PolicyRef(msgspec.Struct, frozen=True):
    """Which policy decided."""

    id: str
    """Name of the deciding rule inside the policy set, or `default`."""
    digest: str
    """SHA-256 of the whole policy set, hex."""


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one tier of judging cost."""

    name: str
    us: int
    """Wall time, microseconds."""
    stop: str = ""
    """Why judging went no further: `clear` (nothing is in doubt) or `deadline`; empty where it went on."""


class Findings(list[Finding]):
    """Findings of a detector, with what it can say beyond them. A plain list says no more than itself."""

    __slots__ = ("complete", "score", "tiers")

    def __init__(
        self,
        found: Iterable[Finding] = (),
        *,
        score: float = 0.0,
        tiers: tuple[Tier, ...] = (),
        complete: bool = True,
    ) -> None:
        """Take what was found.

        Args:
            found: The findings.
            score: Calibrated probability of attack where no finding says more.
            tiers: What each tier cost.
            complete: False when a deadline was missed.
        """
        super().__init__(found)
        self.score = score
        self.tiers = tiers
        self.complete = complete


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy asks for."""

    action: Action
    policy: PolicyRef
    reason: str = ""
    """A word for machines, such as `needs_approval`; empty where the category says enough."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer about one event."""

    event: str
    """Id of the event."""
    action: Action
    score: float
    """Calibrated probability that the event carries injection, jailbreak or extraction."""
    findings: tuple[Finding, ...]
    policy: PolicyRef
    complete: bool = True
    """False when a deadline was missed: the verdict is `degraded`."""
    tiers: tuple[Tier, ...] = ()
    entry: int | None = None
    """Index of the journal entry once it is durable; none where nothing is recorded."""


def attack_score(findings: Iterable[Finding]) -> float:
    """The verdict's score: the highest of the findings that speak of an attack and of what the detector says beyond."""
    least = findings.score if isinstance(findings, Findings) else 0.0
    return max(
        (finding.score for finding in findings if finding.category in _ATTACKS and finding.score > least), default=least
    )
