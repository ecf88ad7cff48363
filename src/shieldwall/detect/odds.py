# SPDX-License-Identifier: Apache-2.0
"""Probabilities and their logits."""

import math
from collections.abc import Sequence

__all__ = ["log_sum", "logit", "sigmoid"]


def sigmoid(value: float) -> float:
    """The probability of a logit."""
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, value))))


def logit(probability: float) -> float:
    """The logit of a probability strictly between 0 and 1."""
    return math.log(probability / (1.0 - probability))


def log_sum(values: Sequence[float]) -> float:
    """Logarithm of the sum of exponentials."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
