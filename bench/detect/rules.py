# SPDX-License-Identifier: Apache-2.0
"""Rules on the corpora: hits and precision of each, and what they find and stop together.

A rule's score is meant to be its precision: hits on attacks (injection, jailbreak, extraction) over all its hits, one
per group of near-duplicates, on train. Printed are the rules whose score is more than 0.1 away from what was measured
on at least 20 groups. Figures have no target: they are the ground on which everything learned stands.
"""

import argparse
import sys
from collections import defaultdict
from typing import Final

from bench import report
from bench.detect.options import arguments
from bench.detect.sketches import CORPORA
from bench.gateway import stage
from shieldwall.core.errors import Error
from shieldwall.core.event import Event, Segment, utc
from shieldwall.detect import RuleDetector
from shieldwall.lab import Row, Suite

ATTACKS: Final = frozenset({"injection", "jailbreak", "extraction"})
_LEAST_GROUPS: Final = 20
_FAR: Final = 0.1


class Hits:
    """Groups a rule fires on, attacks and harmless apart."""

    def __init__(self) -> None:
        self.attacks: set[str] = set()
        self.harmless: set[str] = set()

    @property
    def precision(self) -> float:
        """Share of attacks."""
        return len(self.attacks) / max(1, len(self.attacks) + len(self.harmless))


def judge(detector: RuleDetector, suite: str, hits: dict[str, Hits]) -> list[report.Figure]:
    """Put a suite through the rules.

    Raises:
        BenchError: It is not there.
    """
    found = dict.fromkeys(("attacks", "benign"), 0)
    total = dict(found)
    try:
        for row in Suite.find(suite, CORPORA).rows():
            if not isinstance(row, Row) or row.label not in {*ATTACKS, "benign"}:
                continue
            side = "attacks" if row.label in ATTACKS else "benign"
            segment = Segment(text=row.text, surface=row.surface)
            findings = detector.judge(Event(id="", time=utc(0), segments=(segment,)))
            total[side] += 1
            found[side] += bool(findings)
            for rule in {finding.rule for finding in findings}:
                getattr(hits[rule], "attacks" if side == "attacks" else "harmless").add(row.group)
    except Error as error:
        raise report.BenchError(f"{suite}: {error}") from None
    return [
        report.Figure(f"rules: {side} of {suite} with a finding", "share", [found[side] / max(1, total[side])])
        for side in found
    ]


def run(_: argparse.Namespace) -> report.Report:
    """Measure in this process."""
    detector = RuleDetector()
    hits: dict[str, Hits] = defaultdict(Hits)
    figures = judge(detector, "train", hits)
    scores = {rule.id: rule.score for rule in detector.rules}
    telling = {rule: each for rule, each in hits.items() if len(each.attacks | each.harmless) >= _LEAST_GROUPS}
    far = {rule: each for rule, each in telling.items() if abs(each.precision - scores[rule]) > _FAR}
    for rule, each in sorted(far.items()):
        sys.stderr.write(
            f"{rule}: score {scores[rule]:.2f}, measured {each.precision:.2f} on {len(each.attacks)} attacks and"
            f" {len(each.harmless)} harmless groups\n"
        )
    figures.append(report.Figure(f"rules with at least {_LEAST_GROUPS} groups on train", "", [float(len(telling))]))
    figures.append(report.Figure(f"of them more than {_FAR:g} off their score", "", [float(len(far))]))
    figures += judge(detector, "dev/ood", defaultdict(Hits))
    return report.report("rules", figures, report.versions(("hyperscan", "pyarrow")), "detect")


def main(argv: list[str] | None = None) -> int:
    """Measure the rules and print what they find."""
    parser = arguments("rules", __doc__)
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
