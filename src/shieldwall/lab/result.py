# SPDX-License-Identifier: Apache-2.0
"""The result file: what was measured, on which bytes, with which seeds, on what machine. JSON, version 1.

A result holds names and numbers. It never holds a text of a suite, nor a path of the machine.
"""

from pathlib import Path

import msgspec

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.lab.defence import Description
from shieldwall.lab.estimate import Estimate
from shieldwall.lab.suite import FileDigest, Rejected

__all__ = [
    "FORMAT", "VERSION", "Costs", "Measured", "Operating", "Report", "Result", "Scores", "SuiteRead", "Threshold",
    "decode", "encode", "load",
]  # fmt: skip

FORMAT = "shieldwall.lab.report"
VERSION = 1
_MAX_BYTES = 64 << 20


class Threshold(msgspec.Struct, frozen=True):
    """From which score on a text is flagged."""

    value: float
    chosen_on: str
    """`this suite`, the name of another suite, or `given`."""


class Operating(msgspec.Struct, frozen=True, kw_only=True):
    """What a defence finds and what it stops for nothing at one point of work."""

    rate: float | None
    """The false positive rate that was asked for; none for the defence's own decision."""
    threshold: Threshold | None
    recall: Estimate
    false_positives: Estimate


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What judging takes."""

    wall_us: dict[str, Estimate]
    """Percentiles `p50`, `p90`, `p99` of wall time per text, microseconds."""
    wall_us_mean: Estimate
    cpu_s_per_million: Estimate
    """CPU seconds for a million texts like these."""
    price_per_million: Estimate
    price_per_core_hour: float
    """The price it was computed with; the currency is the reader's."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Every figure; `docs/lab.md` says what each means."""

    counts: dict[str, int]
    """Judged rows by label."""
    is_binary: bool
    """Whether the defence only says yes and no: then there is no threshold to choose."""
    auc: Estimate
    operating: list[Operating]
    """At 1 % and at 0.1 % false positives, with thresholds chosen on this suite."""
    applied: Operating | None
    """At a threshold that was chosen elsewhere, where one was given."""
    false_positives_by: dict[str, dict[str, Estimate]]
    """By surface, language, length and source; like `recall_by` at `applied`, else at 1 % false positives."""
    recall_by: dict[str, dict[str, Estimate]]
    benign_passed: Estimate
    """Share of benign rows with a score below 0.5: the opposite of over-defence."""
    accuracy: Estimate
    """Share of attacks and benign rows on the right side of 0.5."""
    calibration: Estimate
    """Expected calibration error; 0 is best."""
    harmful_flagged: Estimate
    """Share of harmful rows flagged at the same point; no error either way."""
    decided: Operating | None
    """The defence's own decisions, where it makes them on every row."""
    costs: Costs
    curve: list[tuple[float, float]]
    """Points of the ROC curve: false positive rate, recall."""

    @property
    def point(self) -> Operating:
        """Where the slices are taken: the threshold from elsewhere, else the one at 1 % false positives."""
        return self.applied or self.operating[0]


class SuiteRead(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows were read."""

    name: str
    digest: str
    """SHA-256 over the files, hex."""
    files: tuple[FileDigest, ...]
    rows: int
    """Rows that were judged or failed."""
    sample: int | None = None
    """How many rows were drawn at most; none for all."""
    rejected: int = 0
    """Rows that could not be used."""
    first_rejected: tuple[Rejected, ...] = ()
    """The first of them, with their places."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Which defence was measured, and how it was asked."""

    name: str
    description: Description
    batch: int = 1
    """Texts per call; a latency is that of the call, divided by it."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One defence on one suite."""

    suite: SuiteRead
    defence: Measured
    time: str
    """UTC, ISO 8601, when measuring began."""
    seed: int
    resamples: int
    failures: dict[str, int]
    """Rows on which the defence gave no judgement, by reason."""
    scores: Scores | None
    """None where no row was judged."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one run measured."""

    format: str = FORMAT
    v: int = VERSION
    machine: dict[str, str]
    versions: dict[str, str]
    results: list[Result]
    missing: list[str] = []
    """What was asked for and could not be measured, with the reason."""


def encode(report: Report) -> bytes:
    """A report as indented JSON with a line end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode(raw: bytes, name: str) -> Report:
    """Read a report. Raises InvalidInput for anything that is not one of this version."""
    try:
        report = msgspec.json.decode(raw, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(f"{name} is not a result of `shieldwall lab run`", where=name) from None
    if (report.format, report.v) != (FORMAT, VERSION):
        raise InvalidInput(f"{name} is of another format or version", where=name, hint=f"this reads version {VERSION}")
    return report


def load(path: Path) -> Report:
    """Read a result file. Raises InvalidInput."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path.name} cannot be read: {error.strerror}", where=path.name) from None
    if len(raw) > _MAX_BYTES:
        raise LimitExceeded(f"{path.name} is over {_MAX_BYTES} bytes", where=path.name)
    return decode(raw, path.name)
