# SPDX-License-Identifier: Apache-2.0
"""Leave one source out: how well would a detector do on attacks from somewhere it has never seen?

Whole sources are held out in rotation. A trainer sees the rest, and what it makes is measured on the sources that were
held out: the attacks of each against all benign rows of its fold. The mean over sources says more about next year's
attacks than any figure on rows whose neighbours were trained on.

Sources of one owner go together, and so does what was composed from them (`compose(owner)`), since they share strings.
A group that stands on both sides is taken out of training.

This module imports numpy through `stats`, so import it late.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from shieldwall.core.errors import ConfigError
from shieldwall.lab.defence import Defence
from shieldwall.lab.estimate import Estimate
from shieldwall.lab.run import judge_all
from shieldwall.lab.score import Method
from shieldwall.lab.stats import Ranked, middle, resample
from shieldwall.lab.suite import ATTACKS, Label, Row

__all__ = ["Held", "Rotation", "Trainer", "family", "folds", "rotate"]

Trainer = Callable[[Sequence[Row]], Defence]
"""Makes a defence from labelled rows."""

MIN_ATTACKS = 20
"""Attacks a source must have for its AUC to count in the mean: below, it is mostly chance."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one source that was held out."""

    source: str
    fold: int
    auc: Estimate
    attacks: int
    benign: int
    """Benign rows of its fold, which its attacks were compared with."""
    failures: int
    """Rows of its fold on which the defence gave no judgement."""
    counts: bool
    """Whether it is in the mean."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole rotation."""

    trainer: str
    seed: int
    folds: int
    mean: Estimate
    """Mean AUC over the sources that count, each with the same weight; its interval is over sources."""
    sources: list[Held]


def family(source: str) -> str:
    """What a source is held out with: its owner, also for what was composed from it."""
    if source.startswith("compose(") and source.endswith(")"):
        source = source.removeprefix("compose(").removesuffix(")")
    return source.partition("/")[0]


def folds(rows: Iterable[Row], count: int = 8) -> list[frozenset[str]]:
    """Sources in folds, families whole, attacks and benign rows each spread evenly.

    Args:
        rows: Rows of a suite; only their sources and labels are read.
        count: How many folds; fewer where fewer families hold attacks.

    Raises:
        ConfigError: There are not two families with attacks.
    """
    members, attacks, benign = defaultdict[str, set[str]](set), defaultdict[str, int](int), defaultdict[str, int](int)
    for row in rows:
        name = family(row.source)
        members[name].add(row.source)
        attacks[name] += row.label in ATTACKS
        benign[name] += row.label is Label.BENIGN
    hostile = sorted((name for name in members if attacks[name]), key=lambda name: (-attacks[name], name))
    if len(hostile) < 2:
        raise ConfigError("rotation needs attacks from two sources at least")
    count = min(count, len(hostile))
    chosen: list[set[str]] = [set() for _ in range(count)]
    held_attacks, held_benign = [0] * count, [0] * count
    for name in hostile:
        fold = min(range(count), key=lambda each: (held_attacks[each], each))
        chosen[fold].add(name)
        held_attacks[fold] += attacks[name]
        held_benign[fold] += benign[name]
    for name in sorted(members.keys() - set(hostile), key=lambda name: (-benign[name], name)):
        fold = min(range(count), key=lambda each: (held_benign[each], each))
        chosen[fold].add(name)
        held_benign[fold] += benign[name]
    return [frozenset(source for name in names for source in members[name]) for names in chosen]


def rotate(
    rows: Sequence[Row],
    train: Trainer,
    name: str,
    *,
    count: int = 8,
    method: Method | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rotation:
    """Train on all folds but one, measure on that one, for each of them.

    Args:
        rows: Everything there is to train on.
        train: Makes a defence from rows; it is given rows of all labels, harmful ones too.
        name: What the trainer is called in the report.
        count: How many folds.
        method: Seed and number of draws.
        progress: Told which fold begins, and of how many.
    """
    method = method or Method()
    held, chosen = list[Held](), folds(rows, count)
    for number, sources in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen))
        outside = [row for row in rows if row.source in sources and row.label is not Label.HARMFUL]
        seen = {row.group for row in outside}
        defence = train([row for row in rows if row.source not in sources and row.group not in seen])
        try:
            held += _measure(defence, outside, number, method)
        finally:
            defence.close()
    counted = [each.auc.value for each in held if each.counts and each.auc.value is not None]
    values = np.array(counted, np.float64)
    chance = np.random.default_rng(method.seed)
    draws = [float(chance.choice(values, len(values)).mean()) for _ in range(method.resamples)] if counted else []
    value = float(values.mean()) if counted else float("nan")
    mean = middle(value, draws, len(counted), "" if counted else f"no source has {MIN_ATTACKS} attacks")
    held.sort(key=lambda each: (not each.counts, each.auc.value or 0.0, each.source))
    return Rotation(trainer=name, seed=method.seed, folds=len(chosen), mean=mean, sources=held)


def _measure(defence: Defence, rows: Sequence[Row], fold: int, method: Method) -> list[Held]:
    """Each source of a fold that holds attacks, against all benign rows of the fold."""
    sheet = judge_all(defence, rows)
    scores = np.array(sheet.scores, np.float64)
    benign = np.array([label is Label.BENIGN for label in sheet.labels], bool)
    codes: dict[str, int] = {}
    groups = np.array([codes.setdefault(group, len(codes)) for group in sheet.groups], np.int64)
    sources = np.array(sheet.sources, object)
    found = []
    for source in sorted(set(sheet.sources)):
        attacks = (sources == source) & ~benign
        if not attacks.any():
            continue
        kept = attacks | benign
        ranked = Ranked(scores[kept], attacks[kept])
        draws = [ranked.auc(w) for w in resample(groups[kept], attacks[kept], method.seed, method.resamples)]
        auc = middle(ranked.auc(), draws, int(kept.sum()))
        found.append(
            Held(
                source=source,
                fold=fold,
                auc=auc,
                attacks=int(attacks.sum()),
                benign=int(benign.sum()),
                failures=sheet.failures.total(),
                counts=int(attacks.sum()) >= MIN_ATTACKS and auc.value is not None,
            )
        )
    return found
