# SPDX-License-Identifier: Apache-2.0
"""The range at work: every defence on every suite, text by text, into one report.

Rows stream through: a text is handed to the defence and let go. Each call is timed on the wall and by the CPU time of
this process, all its threads included; a defence in another process has no CPU figure unless it measures itself.

This module imports numpy through `score`, so import it late.
"""

import importlib.metadata
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from shieldwall.core.errors import ConfigError, Error
from shieldwall.lab.defence import PROBE, Defence, Item, Judged
from shieldwall.lab.result import Measured, Report, Result, SuiteRead, Threshold
from shieldwall.lab.score import Method, Sheet, score
from shieldwall.lab.suite import Rejected, Row, Suite, digest_of

__all__ = ["Options", "Progress", "judge_all", "machine", "measure", "run", "versions"]

Progress = Callable[[str, int, int], None]
"""Told what is measured, how many rows were judged and how many of them failed."""

_HOPELESS = 20
"""Texts from the start after which a defence that failed on each of them, and on a harmless one, is given up."""
_REJECTED_SHOWN = 20
_PACKAGES = (
    "shieldwall", "numpy", "pyarrow", "msgspec", "hyperscan", "google-re2", "numba", "onnxruntime", "tokenizers",
    "onnx", "safetensors", "torch",
)  # fmt: skip


class Options(NamedTuple):
    """How a run goes."""

    method: Method = Method()
    batch: int = 1
    """Texts per call. One is what a gateway does; more is what a batch job does, and its latency is a share."""
    sample: int | None = None
    """Rows drawn at most from each suite, by the seed; None for all."""
    threshold_from: str | None = None
    """Name of the suite whose threshold at 1 % false positives is applied to the others."""


def run(
    suites: Sequence[Suite], defences: Sequence[Defence], options: Options, progress: Progress | None = None
) -> Report:
    """Measure every defence on every suite.

    What one of them cannot do is named in `missing`; the others go on.

    Raises:
        ConfigError: `threshold_from` names none of the suites.
    """
    first = options.threshold_from
    if first is not None and first not in {suite.name for suite in suites}:
        raise ConfigError(f"the threshold is to come from {first}, which is not among the suites")
    ordered = sorted(suites, key=lambda suite: suite.name != first)
    results, missing = list[Result](), list[str]()
    for defence in defences:
        threshold = options.method.threshold
        for suite in ordered:
            method = options.method._replace(threshold=None if suite.name == first else threshold)
            try:
                result = measure(suite, defence, options._replace(method=method), progress)
            except Error as error:
                missing.append(f"{defence.name} on {suite.name}: {error}")
                continue
            results.append(result)
            if result.scores is None:
                missing.append(f"{defence.name} on {suite.name}: no row was judged")
            elif suite.name == first:
                found = result.scores.operating[0].threshold
                threshold = None if found is None else Threshold(found.value, suite.name)
        if first is not None and threshold is None:
            missing.append(f"{defence.name}: no threshold could be chosen on {first}")
    return Report(machine=machine(), versions=versions(), results=results, missing=missing)


def measure(suite: Suite, defence: Defence, options: Options, progress: Progress | None = None) -> Result:
    """One defence on one suite.

    Raises:
        Error: The suite cannot be read, or the defence cannot be used at all.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    files = suite.digests()
    rejected = list[Rejected]()
    rows = _usable(suite.rows(), rejected)
    if options.sample is not None:
        rows = iter(_sample(rows, options.sample, options.method.seed))
    label = f"{suite.name}, {defence.name}"
    sheet = judge_all(defence, rows, options.batch, None if progress is None else lambda *done: progress(label, *done))
    return Result(
        suite=SuiteRead(
            name=suite.name,
            digest=digest_of(files),
            files=files,
            rows=len(sheet.scores) + sheet.failures.total(),
            sample=options.sample,
            rejected=len(rejected),
            first_rejected=tuple(rejected[:_REJECTED_SHOWN]),
        ),
        defence=Measured(name=defence.name, description=defence.describe(), batch=options.batch),
        time=began,
        seed=options.method.seed,
        resamples=options.method.resamples,
        failures=dict(sheet.failures.most_common()),
        scores=score(sheet, options.method) if sheet.scores else None,
    )


def judge_all(
    defence: Defence, rows: Iterable[Row], batch: int = 1, progress: Callable[[int, int], None] | None = None
) -> Sheet:
    """Ask a defence about every row.

    Raises:
        ConfigError: It failed on each of the first texts. Error: it said itself that it cannot be used.
    """
    sheet = Sheet()
    is_local = defence.describe().is_local
    # The first call may load or compile something; it is nobody's latency.
    _ask(defence, [Item(PROBE)])
    waiting = iter(rows)
    while chunk := list(islice(waiting, batch)):
        items = [Item(row.text, row.surface) for row in chunk]
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        answers = _ask(defence, items)
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        for row, judged in zip(chunk, answers, strict=True):
            own_cpu = judged.cpu_us if judged.cpu_us is not None or not is_local else cpu / 1000 / len(chunk)
            sheet.add(row, judged, wall / 1000 / len(chunk), own_cpu)
        failed = sheet.failures.total()
        if not sheet.scores and failed >= _HOPELESS and _ask(defence, [Item(PROBE)])[0].failure:
            words = ", ".join(reason for reason, _ in sheet.failures.most_common(3))
            raise ConfigError(f"{defence.name} failed on each of the first {failed} texts ({words})")
        if progress is not None:
            progress(len(sheet.scores) + failed, failed)
    return sheet


def _ask(defence: Defence, items: Sequence[Item]) -> list[Judged]:
    try:
        answers = defence.judge(items)
    except Error:
        raise
    except Exception as error:  # noqa: BLE001  it is another's code; the name of the error is counted, its words may hold the text
        return [Judged(failure=type(error).__name__)] * len(items)
    return answers if len(answers) == len(items) else [Judged(failure="wrong number of answers")] * len(items)


def _usable(rows: Iterable[Row | Rejected], rejected: list[Rejected]) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            yield row


def _sample(rows: Iterable[Row], size: int, seed: int) -> list[Row]:
    """Every row with the same chance, drawn in one pass (Vitter's algorithm R); in the order of the file."""
    chance = random.Random(seed)  # noqa: S311  a draw that can be repeated, no secret
    kept: list[tuple[int, Row]] = []
    for number, row in enumerate(rows):
        if len(kept) < size:
            kept.append((number, row))
        elif (place := chance.randrange(number + 1)) < size:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept, key=lambda each: each[0])]


def machine() -> dict[str, str]:
    """What was measured on; no name of the machine."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return {"cpu": cpu, "cores": str(cores), "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
