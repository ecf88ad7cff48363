# SPDX-License-Identifier: Apache-2.0
"""A figure, its target, whether it was reached, and everything needed to doubt it.

A figure carries one value per round; its median is held against the target, minimum and maximum show the spread.
Figures without a target are context: what the peer does, what the bare disk does.
"""

import enum
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

__all__ = [
    "OUT",
    "BenchError",
    "Exit",
    "Figure",
    "Neighbours",
    "Report",
    "Target",
    "exit_code",
    "machine",
    "percentile",
    "save",
    "show",
    "versions",
]

OUT: Final = Path(__file__).resolve().parent / "out"
"""Where results go; not part of the repository."""
CORES: Final = sorted(os.sched_getaffinity(0))
"""Cores of this process when it started, before it was pinned to one of them."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A benchmark could not measure. No figure follows; exit code 2."""


class Exit(enum.IntEnum):
    """Exit codes of every benchmark."""

    REACHED = 0
    MISSED = 1
    UNKNOWN = 2


class Target(msgspec.Struct, frozen=True):
    """What a figure has to reach."""

    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether the value is inside; bounds belong to it."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


class Figure(msgspec.Struct, frozen=True):
    """One measured quantity."""

    name: str
    unit: str
    values: list[float]
    """One per round."""
    target: Target | None = None
    note: str = ""
    """How it was measured, where the name cannot say it."""
    is_final: bool = True
    """False where measuring ended early: the value can only get worse, so it may miss a target but not reach one."""

    @property
    def median(self) -> float:
        """The value that is held against the target."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target; none where there is no target or where that cannot be told."""
        if self.target is None:
            return None
        is_met = self.target.is_met(self.median)
        return None if is_met and not self.is_final else is_met


class Report(msgspec.Struct, frozen=True):
    """What one benchmark found, and where."""

    benchmark: str
    time: str
    machine: dict[str, str]
    versions: dict[str, str]
    figures: list[Figure]
    command: str = ""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; nearest rank, no interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "cpu": _proc_field("/proc/cpuinfo", "model name"),
        "cores": str(len(CORES)),
        "memory": _proc_field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "disk": _filesystem(OUT.parent),
    }


def _proc_field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _filesystem(path: Path) -> str:
    """Type and options of the file system that holds the path."""
    best, found = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        # Paths under a mount point start with it; the longest one wins.
        if str(path).startswith(mount) and len(mount) >= len(best):
            best, found = mount, f"{kind} ({options})"
    return found


class Neighbours:
    """Who else used the machine during a run: figures from a busy machine are worth less, so a report says it."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float, float]:
        """Seconds: clock, busy and stolen on all cores (proc(5), first line of stat), our own with our children's."""
        _, user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().split(maxsplit=10)
        busy = sum(int(value) for value in (user, nice, system, irq, softirq)) / _TICKS
        return time.monotonic(), busy, int(steal) / _TICKS, sum(os.times()[:4])

    def describe(self) -> dict[str, str]:
        """Load of others since the start, in cores; only true once all our own children have ended."""
        passed, busy, stolen, own = (end - start for start, end in zip(self._start, self._read(), strict=True))
        others = max(0.0, busy - own)
        return {"load of others": f"{others / passed:.2f} cores", "stolen by the host": f"{stolen / passed:.2f} cores"}


def versions(packages: Iterable[str] = ("shieldwall", "httptools", "uvloop", "msgspec")) -> dict[str, str]:
    """Versions of Python and of installed packages."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def report(
    benchmark: str, figures: list[Figure], more_versions: dict[str, str] | None = None, area: str = "gateway"
) -> Report:
    """Put figures together with their circumstances."""
    return Report(
        benchmark=benchmark,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions() | (more_versions or {}),
        figures=figures,
        command=" ".join([f"python -m bench.{area}.{benchmark}", *sys.argv[1:]]),
    )


def save(result: Report | Sequence[Report], path: Path) -> None:
    """Write results as indented JSON; the directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def show(results: Sequence[Report]) -> str:
    """Results as a table for people, with machine and versions below it."""
    rows: list[tuple[str, ...]] = [("figure", "median", "min", "max", "unit", "target", "reached")]
    for result in results:
        rows.extend(_row(figure) for figure in result.figures)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = {figure.note for result in results for figure in result.figures if figure.note}
    lines.extend(f"note: {note}" for note in sorted(notes))
    lines.extend(f"{result.benchmark}: {result.command}; " + _facts(result.machine) for result in results)
    lines.append("versions: " + _facts(_all_versions(results)))
    return "\n".join(lines)


def _facts(facts: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in facts.items())


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {None: "unknown" if figure.target else "", True: "yes", False: "NO"}[figure.reached]
    numbers = (_number(value) for value in (figure.median, min(figure.values), max(figure.values)))
    return (figure.name, *numbers, figure.unit, str(figure.target or ""), verdict)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _all_versions(results: Sequence[Report]) -> dict[str, str]:
    return {name: version for result in results for name, version in result.versions.items()}


def exit_code(results: Iterable[Report]) -> Exit:
    """Whether all targets were reached; a target missed for sure weighs more than one that cannot be told."""
    outcomes = [figure.reached for result in results for figure in result.figures if figure.target is not None]
    if False in outcomes:
        return Exit.MISSED
    return Exit.UNKNOWN if None in outcomes else Exit.REACHED
