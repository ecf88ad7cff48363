# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of measuring: ranking quality, thresholds, calibration, and how sure one can be of each.

Pure functions on arrays. Two kinds of interval, both 95 %:

- a share (recall, false positives, accuracy) has Wilson's interval. Rows of one group are not independent, so it is
  computed for Kish's effective number of rows, n² / Σ m², with m the rows of each group: that is n where every row is
  a group of its own, and the number of groups where they are equally large;
- what is not a share (AUC, recall at a false positive rate, calibration) is resampled: whole groups are drawn with
  replacement, attacks and benign apart, and the interval is that of the middle 95 % of what comes out.

This module imports numpy, so import it late.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shieldwall.lab.estimate import Estimate, unknown

__all__ = [
    "Floats",
    "Ints",
    "Mask",
    "Ranked",
    "calibration_error",
    "effective",
    "mean",
    "middle",
    "quantile",
    "resample",
    "share",
    "threshold_at",
    "wilson",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

Z = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

_SLACK = 1e-9
"""A weighted share may miss a bound by rounding alone."""


class Ranked:
    """Scores in order, ready to be looked at under many weightings of their rows."""

    def __init__(self, scores: Floats, positive: Mask) -> None:
        """Sort once.

        Args:
            scores: One per row, finite; greater means more of an attack.
            positive: Whether the row is an attack; the others are benign.
        """
        self.values, self._codes = np.unique(scores, return_inverse=True)
        self._positive = positive

    def _counts(self, weights: Floats | None) -> tuple[Floats, Floats]:
        """Weight of attacks and of benign rows at each distinct score."""
        size = len(self.values)
        held: Floats = np.ones(len(self._codes)) if weights is None else weights
        # A count of nothing is of whole numbers; the type is the same for all.
        attacks, benign = (
            np.bincount(self._codes, held * each, size).astype(np.float64) for each in (self._positive, ~self._positive)
        )
        return attacks, benign

    def auc(self, weights: Floats | None = None) -> float:
        """Probability that an attack scores above a benign row, ties counted half; nan where one kind is missing."""
        attacks, benign = self._counts(weights)
        pairs = attacks.sum() * benign.sum()
        return float(attacks @ (np.cumsum(benign) - benign / 2) / pairs) if pairs else math.nan

    def recall_at(self, rate: float, weights: Floats | None = None) -> float:
        """Share of attacks above the lowest threshold that lets at most `rate` of the benign rows be flagged."""
        attacks, benign = self._counts(weights)
        if not attacks.sum() or not benign.sum():
            return math.nan
        is_allowed = np.cumsum(benign[::-1])[::-1] <= rate * benign.sum() * (1 + _SLACK)
        # Above every score nothing is flagged, so there is always a threshold; it may find nothing.
        first = int(np.argmax(is_allowed)) if is_allowed.any() else len(is_allowed)
        return float(attacks[first:].sum() / attacks.sum())

    def curve(self) -> tuple[Floats, Floats]:
        """Points of the ROC curve, from nothing flagged to everything: false positive rate, recall."""
        attacks, benign = self._counts(None)
        flagged = [np.concatenate(([0.0], np.cumsum(each[::-1]) / max(each.sum(), 1.0))) for each in (benign, attacks)]
        return flagged[0], flagged[1]


def threshold_at(scores: Floats, benign: Mask, rate: float) -> float:
    """A threshold with at most `rate` of the benign scores at or above it; a row is flagged at or above it.

    Every value between the last benign score that must pass and the next score that was seen does the same to these
    rows; the middle of the two is taken, as it does least to rows that were not seen.
    """
    ordered = np.sort(scores[benign])[::-1]
    if not len(ordered):
        return math.nan
    allowed = int(rate * len(ordered) * (1 + _SLACK))
    if allowed >= len(ordered):
        return float(ordered[-1])
    passed = float(ordered[allowed])
    above = scores[scores > passed]
    middle_of = (passed + float(above.min())) / 2 if len(above) else passed
    return middle_of if middle_of > passed else float(np.nextafter(passed, np.inf))


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if n <= 0:
        return 0.0, 1.0
    rate = hits / n
    centre = rate + Z * Z / (2 * n)
    spread = Z * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def effective(groups: Ints) -> float:
    """Kish's effective number of rows where rows of a group are copies of each other."""
    sizes = np.bincount(groups) if len(groups) else np.zeros(1)
    squares = float((sizes.astype(np.float64) ** 2).sum())
    return len(groups) ** 2 / squares if squares else 0.0


def share(hits: Mask, groups: Ints) -> Estimate:
    """The share of rows that hit, with Wilson's interval for the effective number of rows."""
    n = len(hits)
    if not n:
        return unknown("no such rows")
    rate = float(hits.mean())
    independent = effective(groups)
    low, high = wilson(rate * independent, independent)
    return Estimate(rate, low, high, n)


def resample(groups: Ints, positive: Mask, seed: int, times: int) -> Iterator[Floats]:
    """Weights of rows for `times` draws of whole groups with replacement.

    Groups with attacks only, with benign rows only, and with both are drawn apart, so every draw holds as many groups
    of each kind as there are.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    kinds = np.zeros(count, np.int64)
    np.bitwise_or.at(kinds, groups, np.where(positive, 1, 2))
    strata = [np.flatnonzero(kinds == kind) for kind in (1, 2, 3)]
    chance = np.random.default_rng(seed)
    for _ in range(times):
        drawn = np.zeros(count)
        for stratum in strata:
            if len(stratum):
                drawn[stratum] = np.bincount(chance.integers(len(stratum), size=len(stratum)), minlength=len(stratum))
        yield drawn[groups]


def middle(value: float, draws: Sequence[float] | Floats, n: int, note: str = "") -> Estimate:
    """A value with the interval that holds the middle 95 % of its draws."""
    if math.isnan(value):
        return unknown(note or "attacks and benign rows are both needed", n)
    kept: Any = np.asarray(draws, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Estimate(value, n=n, note=note)
    low, high = (float(each) for each in np.quantile(kept, (0.025, 0.975)))
    return Estimate(value, low, high, n, note)


def calibration_error(scores: Floats, positive: Mask, weights: Floats | None = None, bins: int = 10) -> float:
    """Expected calibration error: mean distance between score and share of attacks, over equally wide bins.

    It speaks of the suite's own mixture of attacks and benign rows, which is not that of traffic.

    Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (2015).
    """
    held = np.ones(len(scores)) if weights is None else weights
    if not held.sum():
        return math.nan
    places = np.minimum((scores * bins).astype(np.int64), bins - 1)
    expected = np.bincount(places, held * scores, bins)
    found = np.bincount(places, held * positive, bins)
    return float(np.abs(expected - found).sum() / held.sum())


def quantile(values: Floats, point: float) -> Estimate:
    """A percentile with the interval between order statistics that a binomial count spans; no distribution assumed.

    Args:
        values: Measurements, in any order.
        point: 0 to 1; 0.5 is the median.
    """
    n = len(values)
    if not n:
        return unknown("nothing was measured")
    ordered = np.sort(values)
    spread = Z * math.sqrt(n * point * (1 - point))
    at, low, high = (
        float(ordered[min(max(math.floor(place), 0), n - 1)])
        for place in (n * point, n * point - spread, n * point + spread)
    )
    return Estimate(at, low, high, n)


def mean(values: Floats) -> Estimate:
    """A mean with the normal 95 % interval."""
    n = len(values)
    if not n:
        return unknown("nothing was measured")
    centre = float(values.mean())
    spread = Z * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Estimate(centre, centre - spread, centre + spread, n)
