# SPDX-License-Identifier: Apache-2.0
"""The fast tier as a trainer for `shieldwall lab run --rotate`: from the labels alone, no encoder asked.

The encoder has seen all sources, so its opinion would carry what is held out. What this measures is therefore below
what the shipped tier does, and honest.
"""

import sys
from collections.abc import Sequence

import numpy as np

from shieldwall.detect import FastTier
from shieldwall.lab.base_model import base_files, read_tokenizer
from shieldwall.lab.defence import Defence
from shieldwall.lab.distil import lessons
from shieldwall.lab.mixture import CLASSES
from shieldwall.lab.plans import FastPlan, PoolPlan
from shieldwall.lab.pool import PARTS, assemble
from shieldwall.lab.suite import Row
from shieldwall.lab.teach_fast import teach_fast
from shieldwall.lab.tiers import FastDefence

__all__ = ["train_fast"]

_PLAN = FastPlan(windows=60_000, epochs=6)
_POOL = PoolPlan(made=40_000, joined=6_000)
_SURE = 4.0
"""Logit of the label, standing in for an opinion."""


def train_fast(rows: Sequence[Row]) -> Defence:
    """A fast tier that learnt from these rows and the phrases.

    Raises:
        ConfigError: The base model is not there. MissingExtra: PyTorch or another library of training is not installed.
    """
    weights, words = base_files(None)
    pool = assemble(rows, _POOL)
    windows = lessons([(PARTS[name], samples) for name, samples in pool.items()], _PLAN.windows, _PLAN.seed)
    opinions = _SURE * np.eye(len(CLASSES), dtype=np.float32)[[each.label for each in windows]]
    learnt = teach_fast(
        _PLAN,
        windows,
        opinions,
        read_tokenizer(words),
        weights,
        lambda said: print(said, file=sys.stderr),  # noqa: T201
    )
    return FastDefence(FastTier(learnt))
