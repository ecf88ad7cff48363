# SPDX-License-Identifier: Apache-2.0
"""How far a defence holds against somebody who tries: attacks are changed until they pass, on a budget of queries.

Two attackers. **Random** makes walks of a few moves from the original and knows only passed or stopped. **Guided**
knows the defence: it sees every score, keeps the best variants (a beam), changes those further, and remembers from
attack to attack which moves brought scores down. The moves stand in `mutate`.

What is counted:

- a query is one text that the defence was asked about, the unchanged attack included; the search for an attack ends
  with the first variant that passes, and the queries to success are those up to it, in the order they were made;
- an attack that passes unchanged is **missed**: it needed no evading and stands apart, as one on which the defence
  failed does. The success rate is of those that were found at first;
- a variant on which the defence fails costs a query and has not passed.

The same seed gives the same searches, whatever the size of a call. This module imports numpy through `stats`, so import
it late.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from shieldwall.core.errors import ConfigError, Error, InvalidInput
from shieldwall.lab.defence import PROBE, Defence, Item, Judged
from shieldwall.lab.estimate import Estimate
from shieldwall.lab.hunt import SEARCHES, Hunt, Odds, Options, Search, Variant
from shieldwall.lab.result import Measured, Threshold
from shieldwall.lab.stats import mean, share
from shieldwall.lab.suite import ATTACKS, Row

__all__ = ["Evaded", "Evasion", "Evasions", "LabelEvasion", "MoveEvasion", "evade"]

_WAVE = 32
"""Attacks searched side by side: their queries share calls, and what moves were worth is learnt between waves."""
_WITHIN = (5, 10, 25, 50, 100)

Progress = Callable[[int, int], None]
"""Told how many attacks are done, and how many of them evaded."""


class Evaded(NamedTuple):
    """A variant that passed: hostile text, for training only."""

    row: Row
    """The attack, with the text that passed. Its group is that of the original."""
    moves: tuple[str, ...]
    queries: int


class LabelEvasion(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the attacks of one label."""

    attacks: int
    missed: int
    """Passed unchanged."""
    failed: int
    """The defence gave no judgement of the unchanged attack."""
    evaded: int
    success: Estimate
    """Share of those found at first for which a variant passed."""


class MoveEvasion(msgspec.Struct, frozen=True, kw_only=True):
    """What a move was worth, over all variants that were asked about."""

    tried: int
    """Variants it was part of."""
    passed: int
    alone: int
    """Variants that passed with this move and no other."""


class Evasion(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, without any text."""

    suite: str
    digest: str
    """SHA-256 over the files of the suite, hex; empty where rows did not come from one."""
    defence: Measured
    threshold: Threshold | None
    """None where the defence's own decision was taken."""
    search: str
    budget: int
    most: int
    seed: int
    labels: dict[str, LabelEvasion]
    """By label, and `all`."""
    through: Estimate
    """Share of all judged attacks that get through in the end, changed or not."""
    within: dict[str, Estimate]
    """Share of those found at first that evaded within so many queries."""
    queries: Estimate
    """Mean number of queries to success, of those that evaded."""
    asked: int
    """Texts the defence was asked about in all; more than what was counted where a call held more than was needed.
    Repetitions after a call that broke are not in it."""
    allowed: tuple[str, ...]
    """Moves the attacker could make."""
    moves: dict[str, MoveEvasion]
    """By move that was tried, the one that passed most often first."""


class Evasions(msgspec.Struct, frozen=True, kw_only=True):
    """All that one run of the command line found."""

    versions: dict[str, str]
    rejected: int
    """Rows of the suite that could not be used."""
    results: list[Evasion]
    missing: list[str]
    """What could not be measured, and why."""


class _End(NamedTuple):
    """How a search ended; the texts that were tried on the way are let go."""

    row: Row
    state: str
    """`missed`, `failed`, `evaded` or `held`."""
    queries: int
    last: Variant


class _Worth:
    """Counts what moves were part of."""

    def __init__(self) -> None:
        self._tried, self._passed, self._alone = Counter[str](), Counter[str](), Counter[str]()

    def count(self, moves: tuple[str, ...], has_passed: bool) -> None:  # noqa: FBT001  one of two counts
        self._tried.update(moves)
        if has_passed:
            self._passed.update(moves)
            self._alone.update(moves if len(moves) == 1 else ())

    def moves(self) -> dict[str, MoveEvasion]:
        tried, passed, alone = self._tried, self._passed, self._alone
        order = sorted(tried, key=lambda move: (-passed[move], -tried[move], move))
        return {move: MoveEvasion(tried=tried[move], passed=passed[move], alone=alone[move]) for move in order}


def evade(
    rows: Sequence[Row],
    defence: Defence,
    options: Options,
    *,
    suite: str = "",
    digest: str = "",
    progress: Progress | None = None,
) -> tuple[Evasion, list[Evaded]]:
    """Change attacks until they pass.

    Args:
        rows: Those labelled as attacks are used, the others left aside.
        defence: Who has to hold.
        options: Who attacks, and how long.
        suite: Where the rows are from, for the report; `digest` likewise.
        digest: See `Evasion.digest`.
        progress: Told after every wave of attacks.

    Returns:
        The report, which holds no text, and the variants that passed, which are nothing but hostile text.

    Raises:
        InvalidInput: There is no attack among the rows.
        ConfigError: The search is not known, there are no moves, or the defence judged none of the attacks.
        Error: The defence said itself that it cannot be used.
    """
    if options.search not in SEARCHES:
        raise ConfigError(f"there is no search {options.search}", hint=f"one of {', '.join(SEARCHES)}")
    if not options.moves:
        raise ConfigError("an attacker without moves only repeats the attack")
    attacks = [row for row in rows if row.label in ATTACKS]
    if not attacks:
        raise InvalidInput("there is no attack to change: no row is labelled injection, jailbreak or extraction")
    ends, worth, asked = _search_all(attacks, defence, options, progress)
    found = [
        Evaded(end.row._replace(text=end.last.text), end.last.moves, end.queries)
        for end in ends
        if end.state == "evaded"
    ]
    report = Evasion(
        suite=suite,
        digest=digest,
        defence=Measured(name=defence.name, description=defence.describe(), batch=options.batch),
        threshold=options.threshold,
        search=options.search,
        budget=options.budget,
        most=options.most,
        seed=options.seed,
        asked=asked,
        allowed=options.moves,
        moves=worth.moves(),
        **_figures(ends, options.budget)._asdict(),
    )
    return report, found


def _search_all(
    attacks: Sequence[Row], defence: Defence, options: Options, progress: Progress | None
) -> tuple[list[_End], _Worth, int]:
    """Every attack's end, what moves were worth, and how many texts were asked about."""
    _ask(defence, [Item(PROBE)])
    odds, ends, worth, asked = Odds(), list[_End](), _Worth(), 0
    waiting = (Hunt(row, options, number, odds) for number, row in enumerate(attacks))
    while wave := list(islice(waiting, _WAVE)):
        asked += _hunt(wave, defence, options.batch)
        for hunt in wave:
            for variant, judged, has_passed in hunt.tried:
                odds.learn(variant, judged.score)
                worth.count(variant.moves, has_passed)
            ends.append(_End(hunt.row, hunt.state, len(hunt.tried), hunt.tried[-1][0]))
        if all(end.state == "failed" for end in ends):
            raise ConfigError(f"{defence.name} judged none of the first {len(ends)} attacks")
        if progress is not None:
            progress(len(ends), sum(end.state == "evaded" for end in ends))
    return ends, worth, asked


def _hunt(wave: Sequence[Hunt], defence: Defence, batch: int) -> int:
    """Run searches side by side to their ends; how many texts were asked about."""
    asked = 0
    running: list[tuple[Hunt, Search, list[Variant]]] = []
    for hunt in wave:
        search = hunt.search()
        running.append((hunt, search, next(search)))
    while running:
        items = [Item(variant.text, hunt.row.surface) for hunt, _, variants in running for variant in variants]
        answers = iter(_judged(defence, items, batch))
        asked += len(items)
        going = []
        for hunt, search, variants in running:
            try:
                going.append((hunt, search, search.send(list(islice(answers, len(variants))))))
            except StopIteration:
                continue
        running = going
    return asked


def _judged(defence: Defence, items: Sequence[Item], batch: int) -> Iterator[Judged]:
    for start in range(0, len(items), batch):
        for judged in _ask(defence, items[start : start + batch]):
            usable = judged.failure or 0.0 <= judged.score <= 1.0
            yield judged if usable else Judged(failure="no score")


def _ask(defence: Defence, items: Sequence[Item]) -> list[Judged]:
    """One answer for each item; where a call breaks, each text is asked about alone, so that one fails and not all."""
    try:
        answers = defence.judge(items)
    except Error:
        raise
    except Exception as error:  # noqa: BLE001  another's code, whose words may hold the text
        if len(items) > 1:
            return [_ask(defence, [item])[0] for item in items]
        return [Judged(failure=type(error).__name__)]
    return answers if len(answers) == len(items) else [Judged(failure="wrong number of answers")] * len(items)


class _Figures(NamedTuple):
    """The part of a report that is computed from how the searches ended."""

    labels: dict[str, LabelEvasion]
    through: Estimate
    within: dict[str, Estimate]
    queries: Estimate


def _figures(ends: Sequence[_End], budget: int) -> _Figures:
    stopped = [end for end in ends if end.state in {"held", "evaded"}]
    queries = [end.queries for end in stopped if end.state == "evaded"]
    return _Figures(
        labels={"all": _label(ends)}
        | {
            str(label): _label([e for e in ends if e.row.label is label])
            for label in sorted({e.row.label for e in ends})
        },
        through=_share([(end, end.state != "held") for end in ends if end.state != "failed"]),
        within={
            str(most): _share([(end, end.state == "evaded" and end.queries <= most) for end in stopped])
            for most in sorted({*(each for each in _WITHIN if each < budget), budget})
        },
        queries=mean(np.array(queries, np.float64)),
    )


def _label(ends: Sequence[_End]) -> LabelEvasion:
    states = Counter(end.state for end in ends)
    return LabelEvasion(
        attacks=len(ends),
        missed=states["missed"],
        failed=states["failed"],
        evaded=states["evaded"],
        success=_share([(end, end.state == "evaded") for end in ends if end.state in {"held", "evaded"}]),
    )


def _share(hits: Sequence[tuple[_End, bool]]) -> Estimate:
    codes: dict[str, int] = {}
    groups = np.array([codes.setdefault(end.row.group, len(codes)) for end, _ in hits], np.int64)
    return share(np.array([is_hit for _, is_hit in hits], bool), groups)
