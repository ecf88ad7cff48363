# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab`: the range on the command line.

Results go to standard output, words and the progress bar to standard error. Exit codes: 0 measured, and what was
expected holds; 1 an expectation was missed, or splits share groups; 2 something could not be measured; 64 usage.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from shieldwall.core.errors import ConfigError, Error, InvalidInput
from shieldwall.lab import evade_commands, train_commands
from shieldwall.lab.defences import make, names
from shieldwall.lab.extras import missing
from shieldwall.lab.league import entries, plain, show, spread
from shieldwall.lab.result import Report, Result, Threshold, encode, load
from shieldwall.lab.shell import at_least, number_in, progress, put, say_error
from shieldwall.lab.suite import CORPORA, NAMED, Rejected, Suite
from shieldwall.lab.trainers import trainer, trainers

__all__ = ["add"]

_CLEAN, _MISSED, _UNKNOWN = 0, 1, 2
_TICK_S = 0.1
_SOURCE_WIDTH = 58

_EPILOG = f"""suites:
  {", ".join(NAMED)}, or the path of a file or folder
  (JSON lines or Parquet with columns text and label)

defences:
  {", ".join(names())}
                            detectors of ours
  fast:FILE, encoder:DIR    other weights of one of them
  python:module:function    a function from texts to scores
  worker:command …          a program that answers JSON lines
  inspect:URL               Shieldwall's POST /v1/inspect
  moderations:URL[#model]   the moderations dialect of OpenAI
  chat:URL#model            a chat endpoint; refusals count
  (a key for endpoints is read from SHIELDWALL_KEY)

exit codes: 0 measured, 1 an expectation was missed, 2 something could not be measured, 64 usage"""

_T = TypeVar("_T")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the noun and its verbs."""
    lab = verbs.add_parser("lab", help="measure any defence against attacks", description=__doc__)
    below = lab.add_subparsers(metavar="VERB", required=True, parser_class=type(lab))
    _add_run(below)
    compare = below.add_parser("compare", help="one league table of several results", description="One league table.")
    compare.add_argument("files", metavar="FILE", nargs="+", type=Path, help="results of `shieldwall lab run --out`")
    _add_outputs(compare)
    compare.set_defaults(run=_compare)
    _add_generate(below)
    _add_corpora(below)
    train_commands.add(below)
    evade_commands.add(below)


def _add_generate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser(
        "generate",
        help="write training texts of our own",
        description="Write attacks and innocent texts made from phrases, as a suite of JSON lines; print how varied"
        " they are. The texts are hostile data: do not open them where a model reads along.",
    )
    verb.add_argument("--count", metavar="N", type=at_least(1), default=1000, help="how many (default: 1000)")
    verb.add_argument("--seed", type=int, default=1, help="the same seed gives the same texts (default: 1)")
    verb.add_argument("--out", metavar="FILE", type=Path, help="where they go (default: nowhere, only measure)")
    verb.add_argument("--json", action="store_true", help="print an object instead of a table")
    verb.set_defaults(run=_generate)


def _add_run(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = verbs.add_parser(
        "run",
        help="measure defences on suites",
        description="Measure every defence on every suite, with 95 % intervals.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--suite", metavar="SUITE", action="append", required=True, help="what to measure on; may repeat")
    run.add_argument("--defence", metavar="DEFENCE", action="append", default=[], help="what to measure; may repeat")
    run.add_argument("--corpora", metavar="DIR", type=Path, help=f"where named suites lie (default: ${CORPORA})")
    run.add_argument("--seed", type=int, default=0, help="of draws and resampling (default: 0)")
    run.add_argument("--resamples", metavar="N", type=at_least(1), default=1000, help="bootstrap draws (default: 1000)")
    run.add_argument("--sample", metavar="N", type=at_least(1), help="draw at most N rows of each suite")
    run.add_argument("--batch", metavar="N", type=at_least(1), default=1, help="texts per call (default: 1)")
    run.add_argument(
        "--price", metavar="P", type=number_in(0, 1e6), default=0.04, help="of a core hour (default: 0.04)"
    )
    point = run.add_mutually_exclusive_group()
    point.add_argument(
        "--threshold", metavar="T", type=number_in(0, 1), help="use this threshold instead of choosing one"
    )
    point.add_argument("--threshold-from", metavar="SUITE", help="choose it on this suite, apply it to the others")
    run.add_argument("--min-auc", metavar="X", type=number_in(0, 1), help="exit 1 where AUC is below")
    run.add_argument("--min-recall", metavar="X", type=number_in(0, 1), help="exit 1 where recall is below")
    run.add_argument("--max-fpr", metavar="X", type=number_in(0, 1), help="exit 1 where more benign texts are stopped")
    run.add_argument("--out", metavar="FILE", type=Path, help="write the whole result there, for `compare`")
    known = ", ".join((*trainers(), "python:module:function"))
    run.add_argument(
        "--rotate",
        metavar="TRAINER",
        help=f"instead of a defence: train, holding out whole sources in turn ({known})",
    )
    run.add_argument("--folds", metavar="N", type=at_least(2), default=8, help="of the rotation (default: 8)")
    _add_outputs(run)
    run.set_defaults(run=_run)


def _add_outputs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print objects instead of a table")
    verb.add_argument("--html", metavar="FILE", type=Path, help="write the table with plots as one page")


def _add_corpora(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    corpora = verbs.add_parser("corpora", help="check or rebuild the corpora", description="Check or rebuild corpora.")
    below = corpora.add_subparsers(metavar="VERB", required=True, parser_class=type(corpora))
    one = below.add_parser(
        "check",
        help="digests, counts, and groups that stand in two splits",
        description="Read every split.",
        epilog="exit codes: 0 sound, 1 a group stands in two splits or rows are unusable, 2 not there, 64 usage",
    )
    one.add_argument("directory", metavar="DIR", type=Path, nargs="?", help=f"the corpora (default: ${CORPORA})")
    one.add_argument("--json", action="store_true", help="print an object")
    one.set_defaults(run=_check)
    other = below.add_parser(
        "build",
        help="rebuild the public sets",
        description="Clone public repositories at named commits and write their texts as suites. Needs a network.",
        epilog="exit codes: 0 built, 2 a source could not be reached (nothing is written), 64 usage",
    )
    other.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    other.add_argument("--table", metavar="FILE", type=Path, help="own table of sources (TOML)")
    other.add_argument("--json", action="store_true", help="print an object")
    other.set_defaults(run=_build)


def _run(arguments: argparse.Namespace) -> int:
    """Measure what was asked for; what cannot be measured is named and the rest goes on."""
    if arguments.rotate:
        return _rotate(arguments)
    if not arguments.defence:
        raise ConfigError("no defence is named", hint=f"add --defence {names()[0]}")
    try:
        from shieldwall.lab.run import Options, run
        from shieldwall.lab.score import Method
    except ImportError as error:
        raise missing("measuring", error) from None
    given = arguments.threshold
    method = Method(
        seed=arguments.seed,
        resamples=arguments.resamples,
        price_per_core_hour=arguments.price,
        threshold=None if given is None else Threshold(given, "given"),
    )
    lacking = list[str]()
    suites = _those(arguments.suite, lambda name: Suite.find(name, arguments.corpora), lacking)
    first = arguments.threshold_from
    if first is not None and first not in NAMED:
        # A suite that was named by its path is called by the last part of it.
        first = Path(first).name
    options = Options(method, arguments.batch, arguments.sample, first)
    defences = _those(arguments.defence, make, lacking)
    bar = _Bar()
    try:
        report = run(suites, defences, options, bar.show)
    finally:
        bar.clear()
        for defence in defences:
            defence.close()
    report = msgspec.structs.replace(report, missing=[*lacking, *report.missing])
    if arguments.out is not None:
        _write(arguments.out, encode(report))
    _give(arguments, [report])
    return _judge(report, arguments)


def _those(asked: Sequence[str], find: Callable[[str], _T], lacking: list[str]) -> list[_T]:
    """What could be found of what was asked for; the rest is said at once and kept for the report."""
    found: list[_T] = []
    for each in asked:
        try:
            found.append(find(each))
        except Error as error:
            lacking.append(str(error))
            say_error(error)
    return found


def _judge(report: Report, arguments: argparse.Namespace) -> int:
    """The exit code: a missed expectation weighs more than what could not be measured."""
    missed = [words for result in report.results for words in _misses(result, arguments)]
    for words in missed:
        sys.stderr.write(f"shieldwall: missed: {words}\n")
    if missed:
        return _MISSED
    incomplete = report.missing or any(result.failures or result.suite.rejected for result in report.results)
    return _UNKNOWN if incomplete or not report.results else _CLEAN


def _misses(result: Result, arguments: argparse.Namespace) -> list[str]:
    if result.scores is None:
        return []
    point = result.scores.point
    where = f"{plain(result.defence.name)} on {plain(result.suite.name)}"
    asked = (
        ("AUC", result.scores.auc.value, arguments.min_auc, 1),
        ("recall", point.recall.value, arguments.min_recall, 1),
        ("false positives", point.false_positives.value, arguments.max_fpr, -1),
    )
    return [
        f"{where}: {name} {'unknown' if value is None else f'{value:.4f}'}, "
        f"expected at {'least' if sign > 0 else 'most'} {bound:g}"
        for name, value, bound, sign in asked
        if bound is not None and (value is None or (value - bound) * sign < 0)
    ]


def _compare(arguments: argparse.Namespace) -> int:
    reports = [load(path) for path in arguments.files]
    _give(arguments, reports)
    return _UNKNOWN if any(report.missing for report in reports) else _CLEAN


def _give(arguments: argparse.Namespace, reports: Sequence[Report]) -> None:
    """Print the table, or the objects, and write the page where one is asked for."""
    if arguments.html is not None:
        from shieldwall.lab.page import page

        _write(arguments.html, page(reports).encode())
    league = entries(reports)
    if arguments.json:
        put(msgspec.json.encode(league).decode())
    else:
        put(show(league))


def _rotate(arguments: argparse.Namespace) -> int:
    """Leave-one-source-out over the rows of all suites named."""
    try:
        from shieldwall.lab.rotate import rotate
        from shieldwall.lab.score import Method
    except ImportError as error:
        raise missing("measuring", error) from None
    train = trainer(arguments.rotate)
    rows, rejected = [], 0
    for name in arguments.suite:
        for row in Suite.find(name, arguments.corpora).rows():
            if isinstance(row, Rejected):
                rejected += 1
            else:
                rows.append(row)
    bar = _Bar()
    rotation = rotate(
        rows,
        train,
        arguments.rotate,
        count=arguments.folds,
        method=Method(arguments.seed, arguments.resamples),
        progress=lambda fold, of: bar.words(f"fold {fold + 1} of {of}"),
    )
    bar.clear()
    if arguments.out is not None:
        _write(arguments.out, msgspec.json.format(msgspec.json.encode(rotation), indent=1) + b"\n")
    if arguments.json:
        put(msgspec.json.encode(rotation).decode())
    else:
        for held in rotation.sources:
            note = "" if held.counts else "  (too few attacks, not in the mean)"
            put(f"{plain(held.source, _SOURCE_WIDTH):<{_SOURCE_WIDTH}} {held.attacks:>6}  {spread(held.auc)}{note}")
        put(f"{'mean AUC over sources held out':<{_SOURCE_WIDTH}} {rotation.mean.n:>6}  {spread(rotation.mean)}")
    if arguments.min_auc is not None and (rotation.mean.value is None or rotation.mean.value < arguments.min_auc):
        sys.stderr.write(f"shieldwall: missed: mean AUC, expected at least {arguments.min_auc:g}\n")
        return _MISSED
    if rejected:
        sys.stderr.write(f"shieldwall: {rejected} rows could not be used\n")
    return (
        _UNKNOWN
        if rejected or rotation.mean.value is None or any(each.failures for each in rotation.sources)
        else _CLEAN
    )


def _check(arguments: argparse.Namespace) -> int:
    from shieldwall.lab.corpora import check, describe

    found = check(arguments.directory)
    if arguments.json:
        put(msgspec.json.encode(found).decode())
    else:
        put(describe(found))
    if not found.is_sound:
        return _MISSED
    return _UNKNOWN if found.missing else _CLEAN


def _generate(arguments: argparse.Namespace) -> int:
    from shieldwall.lab.generate import diversity, write
    from shieldwall.lab.mixture import load_phrases, made

    samples = made(load_phrases(), arguments.count, arguments.seed)
    if arguments.out is not None:
        write(samples, arguments.out)
    found = diversity(samples)
    if arguments.json:
        put(msgspec.json.encode({label: each._asdict() for label, each in found.items()}).decode())
        return _CLEAN
    put(f"{'label':<11}{'texts':>8}{'families':>10}{'languages':>11}{'words':>11}{'pairs':>8}{'fours':>8}{'top':>8}")
    for label, each in found.items():
        put(
            f"{label:<11}{each.texts:>8,}{each.families:>10}{each.languages:>11}{each.words:>11,}"
            f"{each.distinct_pairs:>8.2f}{each.distinct_fours:>8.2f}{each.commonest:>8.2%}"
        )
    return _CLEAN


def _build(arguments: argparse.Namespace) -> int:
    from shieldwall.lab.corpora import build
    from shieldwall.lab.sources import PACKAGED, load_table

    bar = _Bar()
    try:
        built = build(arguments.directory, load_table(arguments.table or PACKAGED), bar.words)
    finally:
        bar.clear()
    if arguments.json:
        put(msgspec.json.encode(built).decode())
    else:
        for name, rows in built.files.items():
            put(f"{name}: {rows:,} rows")
        put(f"{built.duplicates:,} duplicates left out")
    return _CLEAN


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from None


class _Bar:
    """One line on a terminal that says how far it is; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._next = 0.0
        self._began: dict[str, float] = {}

    def show(self, label: str, done: int, failed: int) -> None:
        now = time.monotonic()
        if not self._is_shown or now < self._next:
            return
        self._next = now + _TICK_S
        passed = now - self._began.setdefault(label, now)
        speed = f", {done / passed:,.0f}/s" if passed > 1 else ""
        self.words(f"{plain(label, 60)}: {done:,} texts{speed}{f', {failed:,} not judged' if failed else ''}")

    def words(self, words: str) -> None:
        progress(words)

    def clear(self) -> None:
        progress("")
