# SPDX-License-Identifier: Apache-2.0
"""The last stage of training: curves on held-out sources, operating points on ordinary texts, and all the figures."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np

from shieldwall.core.errors import ConfigError
from shieldwall.core.text import fold
from shieldwall.detect import Encoder, EncoderHeader, FastTier, FastWeights, Points, logit
from shieldwall.lab.calibrate import ask_points, fit
from shieldwall.lab.plans import TrainPlan
from shieldwall.lab.stats import Floats, Ranked
from shieldwall.lab.suite import ATTACKS, Label, Row

__all__ = ["TRAFFIC", "Settled", "settle"]

TRAFFIC = (
    "clinc/oos-eval", "google-research-datasets/Taskmaster", "hiyouga/LLaMA-Factory", "sierra-research/tau-bench",
    "lm-sys/FastChat", "google-deepmind/xquad", "encode/httpx", "songys/Chatbot_data",
    "google-research-datasets/dstc8-schema-guided-dialogue", "simonw/datasette",
)  # fmt: skip
"""Sources of ordinary texts that the fast tier does not learn from: what operating points are chosen on."""
_SURE = 0.95
"""Probability from which the fast tier finds an attack by itself on a surface without ordinary texts to choose on."""
_MAX_TRAFFIC = 1500
"""Texts of one source among them."""


class Settled(NamedTuple):
    """Everything that was chosen."""

    fast: FastWeights
    encoder: EncoderHeader
    points: Points
    figures: dict[str, dict[str, float]]
    """By tier, on the held-out sources."""
    traffic: dict[str, int]
    """Ordinary texts by surface."""


def settle(
    weights: FastWeights, encoder: Encoder, held: Sequence[Row], rows: Sequence[Row], plan: TrainPlan
) -> Settled:
    """Fit the curves and choose the points.

    Args:
        weights: Of the fast tier, not calibrated.
        encoder: The other tier.
        held: Rows of held-out sources.
        rows: Rows of train, for the ordinary texts among them.
        plan: Of the run.
    """
    fast = FastTier(weights)
    scored = _scored(fast, encoder, held)
    attack = np.array([row.label in ATTACKS for row in held])
    harmful = np.array([row.label is Label.HARMFUL for row in held])
    # A harmful request is no attack and not harmless: it says nothing about where attacks begin.
    plain = ~harmful
    curve = fit([scored.fast[plain]], attack[plain], plan.prior)
    harm = fit([scored.fast_harm], harmful, plan.prior)
    second = fit([scored.encoder[plain]], attack[plain], plan.prior)
    second_harm = fit([scored.encoder_harm], harmful, plan.prior)
    asked = scored.encoder * second[0] + second[1]
    joint = fit([asked[plain], scored.fast[plain]], attack[plain], plan.prior)
    traffic = _traffic(fast, rows)
    calm = float(np.quantile(scored.fast[np.array([row.label is Label.BENIGN for row in held])], 0.99))
    # Alone it must be surer: of ordinary texts one in a thousand, of those made to look like attacks one in 100.
    alone = {surface: max(value, calm) for surface, value in ask_points(traffic, 0.001).items()}
    # Of the other surfaces, answers among them, no ordinary texts are at hand to choose on.
    alone["default"] = max(alone["default"], (logit(_SURE) - curve[1]) / curve[0])
    points = Points(
        ask=ask_points(traffic, plan.asked),
        alone=alone,
        encoder=joint[0],
        fast=joint[1],
        base=joint[2],
    )
    figures = {}
    values = {"fast": scored.fast, "encoder": scored.encoder, "joint": joint[0] * asked + joint[1] * scored.fast}
    for name, each in values.items():
        ranked = Ranked(each[plain], attack[plain])
        figures[name] = {"auc": round(ranked.auc(), 4), "recall_at_1_percent": round(ranked.recall_at(0.01), 4)}
    return Settled(
        weights._replace(
            header=msgspec.structs.replace(
                weights.header, slope=curve[0], offset=curve[1], harm_slope=harm[0], harm_offset=harm[1]
            )
        ),
        msgspec.structs.replace(
            encoder.header, slope=second[0], offset=second[1], harm_slope=second_harm[0], harm_offset=second_harm[1]
        ),
        points,
        figures,
        {surface: len(found) for surface, found in traffic.items()},
    )


class _Scored(NamedTuple):
    """What the tiers say of the rows of a suite: logits, the greatest of each text's windows."""

    fast: Floats
    fast_harm: Floats
    encoder: Floats
    encoder_harm: Floats


def _scored(fast: FastTier, encoder: Encoder, rows: Sequence[Row]) -> _Scored:
    def one(row: Row) -> tuple[float, float, float, float]:
        text = fold(row.text)
        batch = fast.windows(text.encode("utf-8", "replace"), row.surface.value)
        opinion = encoder.raw_opinion(text, row.surface.value)
        return max(batch.attacks), max(batch.harms), *opinion

    with ThreadPoolExecutor() as pool:
        columns = np.array(list(pool.map(one, rows)), float).T
    return _Scored(*columns)


def _traffic(fast: FastTier, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Logits of ordinary texts by surface: the greatest of each text's windows."""
    found: dict[str, list[float]] = {}
    taken: dict[str, int] = {}
    for row in rows:
        if row.source not in TRAFFIC or row.label is not Label.BENIGN or taken.get(row.source, 0) >= _MAX_TRAFFIC:
            continue
        taken[row.source] = taken.get(row.source, 0) + 1
        batch = fast.windows(fold(row.text).encode("utf-8", "replace"), row.surface.value)
        found.setdefault(row.surface.value, []).append(max(batch.attacks))
    if not found:
        raise ConfigError("the corpora hold none of the ordinary sources that points are chosen on")
    return found
