# SPDX-License-Identifier: Apache-2.0
"""The league table: many results side by side, best first, as lines for a terminal and as an object for programs.

Defences are compared within one suite, and only when they judged the same bytes: results on other data under the same
name stand in a part of their own. What a result holds came from a file and may be hostile: names are shown printable
and bounded.
"""

from collections.abc import Iterable, Sequence

import msgspec

from shieldwall.lab.estimate import Estimate
from shieldwall.lab.result import Report, Result, Scores

__all__ = ["Entry", "League", "entries", "number", "pairs", "parts", "plain", "show", "spread"]

_NAME_CHARS = 60
_DIGEST_CHARS = 12


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    suite: str
    digest: str
    """Of the suite's data, hex."""
    sample: int | None
    defence: str
    version: str
    rows: int
    failed: int
    rejected: int
    auc: Estimate
    recall: Estimate
    """At the point the slices are taken at: 1 % false positives, or a threshold chosen elsewhere."""
    false_positives: Estimate
    threshold: float | None
    chosen_on: str
    benign_passed: Estimate
    accuracy: Estimate
    calibration: Estimate
    p50_us: Estimate
    p99_us: Estimate
    cpu_s_per_million: Estimate


class League(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table."""

    entries: list[Entry]
    missing: list[str]
    """What the runs could not measure, and results without a single judgement."""


def pairs(reports: Iterable[Report]) -> list[tuple[Entry, Result]]:
    """Every result that holds figures, with its line: by suite and data, then by AUC, the best first."""
    found = [
        (_entry(result, result.scores), result)
        for report in reports
        for result in report.results
        if result.scores is not None
    ]
    return sorted(found, key=lambda pair: _place(pair[0]))


def _place(entry: Entry) -> tuple[str, str, int, float, str]:
    return entry.suite, entry.digest, entry.sample or 0, -(entry.auc.value or 0.0), entry.defence


def entries(reports: Sequence[Report]) -> League:
    """The results of several reports as one table."""
    missing = [plain(words, 300) for report in reports for words in report.missing]
    return League(entries=[entry for entry, _ in pairs(reports)], missing=missing)


def _entry(result: Result, scores: Scores) -> Entry:
    point = scores.point
    return Entry(
        suite=plain(result.suite.name),
        digest=plain(result.suite.digest, 64),
        sample=result.suite.sample,
        defence=plain(result.defence.name),
        version=plain(result.defence.description.version, 24),
        rows=result.suite.rows,
        failed=sum(result.failures.values()),
        rejected=result.suite.rejected,
        auc=scores.auc,
        recall=point.recall,
        false_positives=point.false_positives,
        threshold=None if point.threshold is None else point.threshold.value,
        chosen_on="" if point.threshold is None else plain(point.threshold.chosen_on),
        benign_passed=scores.benign_passed,
        accuracy=scores.accuracy,
        calibration=scores.calibration,
        p50_us=_or_unknown(scores.costs.wall_us.get("p50")),
        p99_us=_or_unknown(scores.costs.wall_us.get("p99")),
        cpu_s_per_million=scores.costs.cpu_s_per_million,
    )


def _or_unknown(estimate: Estimate | None) -> Estimate:
    return estimate or Estimate(None, note="not in the result")


def plain(text: str, limit: int = _NAME_CHARS) -> str:
    """A name on one line: what is not printable becomes a dot, so nothing drives a terminal."""
    shown = "".join(character if character.isprintable() else "\u00b7" for character in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}\u2026"


def number(value: float | None, kind: str = "share") -> str:
    """A figure for people: shares with three digits, times and costs with as many as they carry."""
    if value is None:
        return "-"
    if kind == "share":
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(estimate: Estimate, kind: str = "share") -> str:
    """A figure with its interval, such as `0.931 [0.920, 0.941]`."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return number(estimate.value, kind)
    return f"{number(estimate.value, kind)} [{number(estimate.low, kind)}, {number(estimate.high, kind)}]"


_HEAD = ("defence", "AUC", "recall at 1 % FP", "FP", "benign passed", "p50 us", "p99 us", "CPU s/M", "failed")


def show(league: League) -> str:
    """The table as lines, one part per suite, with what could not be measured below."""
    lines: list[str] = []
    for part in parts(league.entries):
        first = part[0]
        drawn = f", {first.rows:,} rows drawn" if first.sample is not None else f", {first.rows:,} rows"
        lines += [f"{first.suite} (SHA-256 {first.digest[:_DIGEST_CHARS]}{drawn})"]
        table = [_HEAD, *(_row(entry) for entry in part)]
        widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        lines += _notes(part)
        lines.append("")
    lines += [f"not measured: {words}" for words in league.missing]
    return "\n".join(lines).rstrip()


def parts(listed: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that may be compared: same suite, same bytes, same draw."""
    found: dict[tuple[str, str, int | None], list[Entry]] = {}
    for entry in listed:
        found.setdefault((entry.suite, entry.digest, entry.sample), []).append(entry)
    return list(found.values())


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        f"{entry.defence} {entry.version}".rstrip(),
        spread(entry.auc),
        spread(entry.recall),
        number(entry.false_positives.value),
        spread(entry.benign_passed),
        number(entry.p50_us.value, "time"),
        number(entry.p99_us.value, "time"),
        number(entry.cpu_s_per_million.value, "time"),
        str(entry.failed),
    )


def _notes(part: Sequence[Entry]) -> list[str]:
    notes = []
    for entry in part:
        if entry.chosen_on not in {"", "this suite"}:
            notes.append(f"note: {entry.defence}: threshold {entry.threshold:.6g} chosen on {entry.chosen_on}")
        if entry.failed:
            notes.append(
                f"note: {entry.defence}: {entry.failed} of {entry.rows} texts were not judged; no figure counts them"
            )
        notes += [
            f"note: {entry.defence}: {plain(note, 200)}"
            for note in dict.fromkeys((entry.auc.note, entry.recall.note))
            if note
        ]
    if part[0].rejected:
        notes.append(f"note: {part[0].rejected} rows of the suite could not be used")
    return notes
