# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab evade` and `herd`: what a defence is worth against somebody who tries, and what sharing is.

No attack is printed. What evaded is written only where `--out` asks for it, to a file that only its owner can read.
Exit codes: 0 measured; 2 something could not be measured; 64 usage.
"""

import argparse
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shieldwall.core.errors import ConfigError, Error, InvalidInput
from shieldwall.lab.defences import make, names
from shieldwall.lab.estimate import Estimate
from shieldwall.lab.extras import missing
from shieldwall.lab.league import number, plain, spread
from shieldwall.lab.result import Threshold
from shieldwall.lab.shell import at_least, number_in, progress, put
from shieldwall.lab.suite import ATTACKS, CORPORA, Label, Rejected, Row, Suite, digest_of

if TYPE_CHECKING:
    from shieldwall.lab.defence import Defence
    from shieldwall.lab.evade import Evaded, Evasion
    from shieldwall.lab.herd import Herd

__all__ = ["add"]

_CLEAN, _UNKNOWN = 0, 2
_FPR = 0.01
_MOVES_SHOWN = 8
_WIDTH = 34


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe both verbs, below `shieldwall lab`."""
    _add_evade(verbs)
    _add_herd(verbs)


def _add_evade(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser(
        "evade",
        help="change attacks until they pass a defence",
        description="Change attacks until they pass, within a budget of queries, and report how often that succeeds.",
        epilog="exit codes: 0 measured, 2 something could not be measured, 64 usage",
    )
    verb.add_argument("--suite", metavar="SUITE", required=True, help="whose attacks are changed")
    verb.add_argument(
        "--defence", metavar="DEFENCE", action="append", default=[], help="who has to hold, as for `run`; may repeat"
    )
    verb.add_argument(
        "--budget", metavar="N", type=at_least(1), default=100, help="queries for one attack (default: 100)"
    )
    verb.add_argument("--search", choices=("guided", "random"), default="guided", help="default: guided by the score")
    verb.add_argument(
        "--move", metavar="MOVE", action="append", default=[], help="only this move, or this kind; may repeat"
    )
    verb.add_argument("--most", metavar="N", type=at_least(1), default=4, help="moves of a variant (default: 4)")
    verb.add_argument("--batch", metavar="N", type=at_least(1), default=64, help="texts per call at most (default: 64)")
    point = verb.add_mutually_exclusive_group()
    point.add_argument(
        "--threshold", metavar="T", type=number_in(0, 1), help="a text passes below it (default: own decision, or 0.5)"
    )
    point.add_argument(
        "--threshold-from", metavar="SUITE", help="choose the threshold on the benign rows of this suite"
    )
    verb.add_argument(
        "--threshold-fpr",
        metavar="X",
        type=number_in(0, 1),
        help="false positives it may have there (default: 0.01)",
    )
    verb.add_argument(
        "--out", metavar="FILE", type=Path, help="write what evaded, as a suite to train on; hostile text"
    )
    _add_common(verb, "attacks")
    verb.set_defaults(run=_evade)


def _add_herd(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser(
        "herd",
        help="what sketches of some attacks catch of the others",
        description="Part the attacks of a suite at random, share sketches of one part, and look up the other.",
        epilog="exit codes: 0 measured, 2 something could not be measured, 64 usage",
    )
    verb.add_argument("--suite", metavar="SUITE", required=True, help="whose attacks are parted")
    verb.add_argument("--benign", metavar="SUITE", help="whose benign rows are looked up (default: the same suite's)")
    verb.add_argument(
        "--source", metavar="SOURCE", action="append", default=[], help="only attacks of this source; may repeat"
    )
    verb.add_argument("--splits", metavar="N", type=at_least(1), default=5, help="how often to part them (default: 5)")
    _add_common(verb, "attacks, and N benign rows,")
    verb.set_defaults(run=_herd)


def _add_common(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--corpora", metavar="DIR", type=Path, help=f"where named suites lie (default: ${CORPORA})")
    verb.add_argument("--sample", metavar="N", type=at_least(1), help=f"draw at most N {what} by the seed")
    verb.add_argument("--seed", type=int, default=0, help="the same seed gives the same figures (default: 0)")
    verb.add_argument("--json", action="store_true", help="print an object instead of a table")


def _evade(arguments: argparse.Namespace) -> int:
    """Attack every defence that was named; what one of them cannot do is said and the others go on."""
    if not arguments.defence:
        raise ConfigError("no defence is named", hint=f"add --defence {names()[0]}")
    try:
        from shieldwall.lab.evade import Evasions
        from shieldwall.lab.mutate import MOVES, chosen
        from shieldwall.lab.run import versions
    except ImportError as error:
        raise missing("evading", error) from None
    moves = chosen(arguments.move) if arguments.move else tuple(MOVES)
    if arguments.threshold_fpr is not None and arguments.threshold_from is None:
        raise ConfigError("a rate of false positives needs benign rows", hint="add --threshold-from SUITE")
    suite = Suite.find(arguments.suite, arguments.corpora)
    digest = digest_of(suite.digests())
    rejected = list[Rejected]()
    rows = _drawn(_read(suite, rejected), lambda row: row.label in ATTACKS, arguments.sample, arguments.seed)
    lacking, results = list[str](), list["Evasion"]()
    found = list[tuple[str, "Evaded"]]()
    for spec in arguments.defence:
        try:
            result, passed = _attack(spec, rows, (suite.name, digest), moves, arguments)
        except Error as error:
            lacking.append(f"{spec} on {suite.name}: {error}")
            sys.stderr.write(
                f"shieldwall: error: {error}\n" + (f"shieldwall: hint: {error.hint}\n" if error.hint else "")
            )
            continue
        finally:
            progress("")
        results.append(result)
        found += [(spec, each) for each in passed]
    if arguments.out is not None:
        _write(arguments.out, found)
    if arguments.json:
        report = Evasions(versions=versions(), rejected=len(rejected), results=results, missing=lacking)
        put(msgspec.json.encode(report).decode())
    else:
        put("\n\n".join(map(_evasion_table, results)))
    failed = any(result.labels["all"].failed for result in results)
    return _UNKNOWN if lacking or rejected or failed or not results else _CLEAN


def _attack(
    spec: str, rows: Sequence[Row], origin: tuple[str, str], moves: tuple[str, ...], arguments: argparse.Namespace
) -> "tuple[Evasion, list[Evaded]]":
    from shieldwall.lab.evade import evade
    from shieldwall.lab.hunt import Options

    defence = make(spec)
    try:
        options = Options(
            threshold=_threshold(defence, arguments),
            search=arguments.search,
            budget=arguments.budget,
            most=arguments.most,
            moves=moves,
            seed=arguments.seed,
            batch=arguments.batch,
        )
        return evade(
            rows,
            defence,
            options,
            suite=origin[0],
            digest=origin[1],
            progress=lambda done, gone: progress(f"{plain(spec, 40)}: {done:,} of {len(rows):,}, {gone:,} evaded"),
        )
    finally:
        defence.close()


def _threshold(defence: "Defence", arguments: argparse.Namespace) -> Threshold | None:
    """The threshold that was given, or that the defence needs on another suite, as `lab run` chooses it."""
    if arguments.threshold is not None:
        return Threshold(arguments.threshold, "given")
    if arguments.threshold_from is None:
        return None
    import numpy as np

    from shieldwall.lab.run import judge_all
    from shieldwall.lab.stats import threshold_at

    suite = Suite.find(arguments.threshold_from, arguments.corpora)
    sheet = judge_all(
        defence,
        _read(suite, []),
        arguments.batch,
        lambda done, _: progress(f"threshold of {plain(defence.name, 40)}: {done:,} rows"),
    )
    benign = np.array([label is Label.BENIGN for label in sheet.labels], bool)
    if not benign.any():
        raise InvalidInput(f"no threshold can be chosen on {suite.name}: no benign row was judged")
    rate = _FPR if arguments.threshold_fpr is None else arguments.threshold_fpr
    return Threshold(threshold_at(np.array(sheet.scores, np.float64), benign, rate), suite.name)


def _herd(arguments: argparse.Namespace) -> int:
    try:
        from shieldwall.lab.herd import herd
    except ImportError as error:
        raise missing("measuring", error) from None
    rejected = list[Rejected]()
    suite = Suite.find(arguments.suite, arguments.corpora)
    other = suite if arguments.benign is None else Suite.find(arguments.benign, arguments.corpora)
    only = frozenset(arguments.source)

    def is_meant(row: Row) -> bool:
        return row.label in ATTACKS and (not only or row.source in only)

    attacks = _drawn(_read(suite, rejected), is_meant, arguments.sample, arguments.seed)
    benign: Iterator[Row] | list[Row] = _read(other, rejected if other is not suite else [])
    if arguments.sample is not None:
        benign = _drawn(benign, lambda row: row.label is Label.BENIGN, arguments.sample, arguments.seed)
    try:
        found = herd(
            attacks,
            benign,
            splits=arguments.splits,
            seed=arguments.seed,
            only=arguments.source,
            progress=lambda words, done: progress(f"{words}: {done:,}"),
        )
    finally:
        progress("")
    found = msgspec.structs.replace(
        found,
        suite=suite.name,
        digest=digest_of(suite.digests()),
        benign_suite=other.name,
        benign_digest=digest_of(other.digests()),
    )
    put(msgspec.json.encode(found).decode() if arguments.json else _herd_table(found))
    return _UNKNOWN if rejected else _CLEAN


def _read(suite: Suite, rejected: list[Rejected]) -> Iterator[Row]:
    for row in suite.rows():
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            yield row


def _drawn(rows: Iterator[Row] | list[Row], is_meant: Callable[[Row], bool], size: int | None, seed: int) -> list[Row]:
    """The rows that are meant, or some of them with the same chance each, in the order of the file."""
    kept = [row for row in rows if is_meant(row)]
    if size is None or len(kept) <= size:
        return kept
    chance = random.Random(seed)  # noqa: S311  a draw that can be repeated, no secret
    return [kept[at] for at in sorted(chance.sample(range(len(kept)), size))]


def _evasion_table(found: "Evasion") -> str:
    """What became of the attacks by label, how soon, and what worked; no text."""
    point = "its own decision or 0.5"
    if found.threshold is not None:
        point = f"{found.threshold.value:.4f} ({plain(found.threshold.chosen_on)})"
    lines = [
        f"{plain(found.defence.name)} on {plain(found.suite)}",
        f"{found.search} search, {found.budget} queries, at most {found.most} moves, threshold {point}",
        f"{'label':<12}{'attacks':>9}{'missed':>9}{'failed':>9}{'evaded':>9}  success of those found",
    ]
    lines += [
        f"{label:<12}{each.attacks:>9,}{each.missed:>9,}{each.failed:>9,}{each.evaded:>9,}  {spread(each.success)}"
        for label, each in found.labels.items()
    ]
    within = ", ".join(f"{most}: {number(each.value)}" for most, each in found.within.items())
    lines += [
        f"got through in the end, changed or not: {spread(found.through)}",
        f"success within so many queries: {within}",
        f"queries to success: {spread(found.queries, 'cost')}; asked in all: {found.asked:,}",
        f"{'move':<20}{'tried':>9}{'passed':>9}{'alone':>9}",
    ]
    lines += [
        f"{move:<20}{each.tried:>9,}{each.passed:>9,}{each.alone:>9,}"
        for move, each in list(found.moves.items())[:_MOVES_SHOWN]
        if each.passed
    ]
    return "\n".join(lines)


def _herd_table(found: "Herd") -> str:
    """One column for each way to part attacks."""
    head = "".join(f"{f'parted by {each.parted}':<24}" for each in found.caught)
    lines = [
        f"{plain(found.suite)}: {found.attacks:,} attacks of {found.groups:,} groups, {found.splits} splits",
        f"{found.too_short:,} are too short for a sketch, {found.withheld:,} sketches are withheld for harmless texts",
        f"{'caught in the other part':<{_WIDTH}}{head}",
    ]

    def line(name: str, estimates: Sequence[Estimate | None]) -> str:
        shown = "".join(f"{spread(each) if each else '-':<24}" for each in estimates)
        return f"{plain(name, _WIDTH - 1):<{_WIDTH}}{shown}".rstrip()

    lines += [line(label, [each.labels.get(label) for each in found.caught]) for label in found.caught[0].labels]
    lines += [line(f"  {name}", [each.sources.get(name) for each in found.caught]) for name in found.caught[0].sources]
    # Few benign rows are caught: three digits would hide them.
    rates = "".join(f"{_rate(each.benign):<24}" for each in found.caught)
    lines.append(f"{'benign rows caught, per million':<{_WIDTH}}{rates}".rstrip())
    return "\n".join(lines)


def _rate(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.value * 1e6:,.0f} [{estimate.low * 1e6:,.0f}, {estimate.high * 1e6:,.0f}]"


def _write(path: Path, found: "Sequence[tuple[str, Evaded]]") -> None:
    """What evaded, one JSON object per line: a suite to train on, which only its owner can read."""
    lines = (
        {
            "text": each.row.text,
            "label": each.row.label,
            "surface": each.row.surface,
            "language": each.row.language,
            "source": each.row.source,
            "licence": each.row.licence,
            "group": each.row.group,
            "moves": each.moves,
            "queries": each.queries,
            "defence": defence,
        }
        for defence, each in found
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # A file that was there keeps its mode when it is opened: it is closed to others before anything is in it.
            path.chmod(0o600)
            for line in lines:
                file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from None
