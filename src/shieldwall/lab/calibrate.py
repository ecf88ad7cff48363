# SPDX-License-Identifier: Apache-2.0
"""From scores to probabilities, and from probabilities to operating points.

A logistic curve is fitted to what a tier says of held-out sources (Platt 1999), as if a given share of the traffic were
attacks: test sets hold many more than life does. Operating points come from ordinary texts whose sources the fast tier
did not learn from.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from shieldwall.lab.stats import Floats, Mask

__all__ = ["ask_points", "fit"]

_ROUNDS = 60
_RIDGE = 1e-3
_LEAST = 1e-9
"""A step that is no longer worth taking."""
_ENOUGH = 150
"""Texts a surface must have for a point of its own."""


def fit(columns: Sequence[Floats], positive: Mask, prior: float) -> list[float]:
    """Weights of a logistic curve: one per column, then what is added.

    Args:
        columns: Logits, one array per score.
        positive: Which rows are attacks.
        prior: Share of attacks in the traffic it is fitted for.
    """
    x = np.column_stack([*columns, np.ones(len(positive))])
    y = positive.astype(float)
    each = np.where(positive, prior / max(1, positive.sum()), (1 - prior) / max(1, (~positive).sum())) * len(y)

    def loss(weights: Floats) -> float:
        wrong = np.logaddexp(0, np.where(positive, -1, 1) * (x @ weights))
        return float(each @ wrong + _RIDGE / 2 * weights @ weights)

    weights = np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        slope = x.T @ (each * (p - y)) + _RIDGE * weights
        curve = (x * (each * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
        step = np.linalg.solve(curve, slope)
        # A whole step may go too far where the logits are large: half of it, until it is a step down.
        while loss(weights - step) > loss(weights) and np.abs(step).max() > _LEAST:
            step /= 2
        weights -= step
        if np.abs(step).max() <= _LEAST:
            break
    return [float(value) for value in weights]


def ask_points(logits: Mapping[str, Sequence[float]], share: float) -> dict[str, float]:
    """By surface the logit that a share of ordinary texts reaches; `default` is over all of them.

    Args:
        logits: Of ordinary texts, by surface: the greatest of each text's windows.
        share: Of these texts.
    """
    every = [value for values in logits.values() for value in values]
    points = {"default": float(np.quantile(every, 1 - share))}
    for surface, values in logits.items():
        if len(values) >= _ENOUGH:
            points[surface] = float(np.quantile(list(values), 1 - share))
    return points
