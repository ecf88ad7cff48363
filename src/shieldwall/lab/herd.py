# SPDX-License-Identifier: Apache-2.0
"""What sharing is worth: of attacks seen by one half of a community, what do their sketches catch in the other half?

The attacks of a suite are parted at random, several times. Sketches of the first part go into an index, as a node would
hold what others share; each attack of the second part is looked up. Two ways to part them:

- **group**: rows of one group (a template, an attack string) stay on one side. What is caught is what different attacks
  have in common: the value against attacks that nobody shared before, and the harder question;
- **row**: rows are parted one by one, so that other uses of one template stand on both sides: a campaign that reaches
  several houses.

A sketch that fires on a harmless text of the package is not shared, as in the product. Corpora without near-duplicates
understate both figures: in the wild the same text comes many times.

Loads numpy and numba, so import it late.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.core.sketch import Meaning, Sketch, Sketcher, derive_key, pieces, shared
from shieldwall.core.sketcher import make_sketcher
from shieldwall.core.verdict import Category
from shieldwall.detect import CanarySet, SignatureIndex, load_common
from shieldwall.lab.estimate import Estimate, unknown
from shieldwall.lab.stats import share
from shieldwall.lab.suite import ATTACKS, Label, Row

__all__ = ["PARTED", "Caught", "Herd", "herd"]

PARTED = ("group", "row")
"""Ways to part attacks."""

_SECRET: Final = bytes(32)
"""The figures hold under any key; a fixed one makes them repeatable."""
_EPOCH: Final = 1
_STEP: Final = 500
_SOURCES: Final = 12

Progress = Callable[[str, int], None]
"""Told what is looked at, and how many rows of it are done."""


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    """What sketches of one part do, the mean over all splits."""

    parted: str
    """One of `PARTED`."""
    shared: float
    """Attacks whose sketches were shared."""
    labels: dict[str, Estimate]
    """Share of the other part's attacks that is caught, by label and `all`. The interval is that of one split: its ends
    are the means of their ends, so that many splits do not make it look narrower."""
    sources: dict[str, Estimate]
    """The same by source, of the sources with most attacks."""
    benign: Estimate
    """Share of benign rows that is caught: false positives."""


class Herd(msgspec.Struct, frozen=True, kw_only=True):
    """What sharing is worth on a suite; without any text."""

    suite: str = ""
    """Where the attacks are from; empty where rows did not come from a suite."""
    digest: str = ""
    """SHA-256 over the files of the suite, hex."""
    benign_suite: str = ""
    benign_digest: str = ""
    seed: int
    splits: int
    attacks: int
    groups: int
    too_short: int
    """Attacks of which no sketch can be made that tells enough: never shared, hardly ever caught, and counted."""
    withheld: int
    """Attacks whose sketch would fire on a harmless text of the package: not shared."""
    only: tuple[str, ...]
    """Sources the attacks were taken from; empty for all."""
    caught: tuple[Caught, ...]


class _Split:
    """One way to part the attacks, the index of the first part, and what that caught."""

    def __init__(self, parted: str, rows: Sequence[Row], held: Sequence[Sketch | None], chance: random.Random) -> None:
        self.parted = parted
        names = [row.group if parted == "group" else str(number) for number, row in enumerate(rows)]
        order = sorted(set(names))
        chance.shuffle(order)
        first = set(order[: len(order) // 2])
        self.is_first = [name in first for name in names]
        given = [
            (row, sketch) for row, sketch, is_in in zip(rows, held, self.is_first, strict=True) if sketch and is_in
        ]
        self.shared = len(given)
        self.index = _index(sketch for _, sketch in given)
        for row, sketch in given:
            self.index.insert(sketch, _meaning(row))
        self.rows: list[Row] = []
        self.hits: list[bool] = []
        self.benign: list[bool] = []


def herd(
    attacks: Sequence[Row],
    benign: Iterable[Row],
    *,
    splits: int = 5,
    seed: int = 0,
    only: Sequence[str] = (),
    progress: Progress | None = None,
) -> Herd:
    """Share one part, look up the other.

    Args:
        attacks: Rows with the label of an attack are used, the others left aside.
        benign: Rows labelled benign are looked up in every index; read as a stream.
        splits: How often the attacks are parted, each way.
        seed: Of the splits.
        only: Sources to take attacks from; none for all.
        progress: Told from time to time.

    Raises:
        InvalidInput: There are fewer than two groups of attacks.
        ConfigError: No split is asked for.
        MissingExtra: numba is not installed.
    """
    rows = [row for row in attacks if row.label in ATTACKS and (not only or row.source in only)]
    groups = sorted({row.group for row in rows})
    if splits < 1:
        raise ConfigError(f"{splits} splits are none")
    if len(groups) < 2:
        raise InvalidInput(f"attacks of {len(groups)} groups cannot be parted", hint="is the label or --source right?")
    key = derive_key(_SECRET, _EPOCH)
    sketcher = make_sketcher(key, load_common())
    held, too_short = _sketches(rows, sketcher, progress)
    withheld = _withhold(held, CanarySet(key))
    made = [
        _Split(parted, rows, held, random.Random(f"{seed}/{parted}/{number}"))  # noqa: S311  repeatable, no secret
        for parted in PARTED
        for number in range(splits)
    ]
    _look_up_attacks(made, rows, sketcher, progress)
    benign_groups = _look_up_benign(made, benign, sketcher, progress)
    sources = [source for source, _ in Counter(row.source for row in rows).most_common(_SOURCES)]
    return Herd(
        seed=seed,
        splits=splits,
        attacks=len(rows),
        groups=len(groups),
        too_short=too_short,
        withheld=withheld,
        only=tuple(only),
        caught=tuple(
            _caught(parted, [each for each in made if each.parted == parted], sources, benign_groups)
            for parted in PARTED
        ),
    )


def _meaning(row: Row) -> Meaning:
    return Meaning(id=row.label.value, category=Category(row.label.value), score=1.0)


def _index(sketches: Iterable[Sketch]) -> SignatureIndex:
    key = derive_key(_SECRET, _EPOCH).id
    return SignatureIndex(key, max(1, sum(len(pieces(sketch)) for sketch in sketches)))


def _sketches(rows: Sequence[Row], sketcher: Sketcher, progress: Progress | None) -> tuple[list[Sketch | None], int]:
    """The sketch of each attack as others get it, none where it tells too little; and of how many it does."""
    held: list[Sketch | None] = []
    short = 0
    for number, row in enumerate(rows, 1):
        sketch = shared(sketcher.sketch(row.text))
        try:
            _index([sketch]).insert(sketch, _meaning(row))
            held.append(sketch)
        except InvalidInput:
            short += 1
            held.append(None)
        _tell(progress, "sketching attacks", number)
    return held, short


def _withhold(held: list[Sketch | None], canaries: CanarySet) -> int:
    """Take out what would fire on a harmless text; how many that were."""
    count = 0
    for number, sketch in enumerate(held):
        if sketch is not None and canaries.hits(sketch):
            held[number] = None
            count += 1
    return count


def _look_up_attacks(
    splits: Sequence[_Split], rows: Sequence[Row], sketcher: Sketcher, progress: Progress | None
) -> None:
    for number, row in enumerate(rows):
        sketch = sketcher.sketch(row.text)
        for split in splits:
            if not split.is_first[number]:
                split.rows.append(row)
                split.hits.append(bool(split.index.match(sketch)))
        _tell(progress, "looking up attacks", number + 1)


def _look_up_benign(
    splits: Sequence[_Split], rows: Iterable[Row], sketcher: Sketcher, progress: Progress | None
) -> list[str]:
    """Look harmless rows up in every index; the groups of those rows, in order."""
    groups = list[str]()
    for row in rows:
        if row.label is not Label.BENIGN:
            continue
        groups.append(row.group)
        sketch = sketcher.sketch(row.text)
        for split in splits:
            split.benign.append(bool(split.index.match(sketch)))
        _tell(progress, "looking up benign rows", len(groups))
    return groups


def _tell(progress: Progress | None, words: str, done: int) -> None:
    if progress is not None and done % _STEP == 0:
        progress(words, done)


def _caught(parted: str, splits: Sequence[_Split], sources: Sequence[str], benign_groups: Sequence[str]) -> Caught:
    labels = sorted({row.label.value for split in splits for row in split.rows})
    return Caught(
        parted=parted,
        shared=sum(split.shared for split in splits) / len(splits),
        labels={"all": _mean([_of(split) for split in splits])}
        | {label: _mean([_of(split, label=label) for split in splits]) for label in labels},
        sources={source: _mean([_of(split, source=source) for split in splits]) for source in sources},
        benign=_mean([_estimate(split.benign, benign_groups) for split in splits]),
    )


def _of(split: _Split, label: str = "", source: str = "") -> Estimate:
    """Share of the second part that was caught: of one label or source, or of all."""
    meant = [
        (hit, row.group)
        for row, hit in zip(split.rows, split.hits, strict=True)
        if label in {"", row.label.value} and source in {"", row.source}
    ]
    return _estimate([hit for hit, _ in meant], [group for _, group in meant])


def _estimate(hits: Sequence[bool], groups: Sequence[str]) -> Estimate:
    codes: dict[str, int] = {}
    numbers = np.array([codes.setdefault(group, len(codes)) for group in groups], np.int64)
    return share(np.array(hits, bool), numbers)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of a share over splits; its interval is as wide as that of one split."""
    known = [each for each in estimates if each.value is not None]
    if not known:
        return unknown("no such rows")
    value, low, high = (float(np.mean([getattr(each, end) for each in known])) for end in ("value", "low", "high"))
    return Estimate(value, low, high, round(sum(each.n for each in known) / len(known)))
