# SPDX-License-Identifier: Apache-2.0
"""Calibration: a known curve is found again for other traffic, and nothing that is odd makes a number that is none."""

import math

import numpy as np
import pytest

from shieldwall.lab.calibrate import ask_points, fit
from shieldwall.lab.stats import Floats, Mask


def scored(scale: float = 1.0, n: int = 40_000, share: float = 0.5) -> tuple[Floats, Mask]:
    """Scores of two normal kinds a unit from the middle: their true logit is twice the score over its scale."""
    chance = np.random.default_rng(5)
    positive = chance.random(n) < share
    return (chance.normal(size=n) + np.where(positive, 1.0, -1.0)) * scale, positive


@pytest.mark.parametrize("prior", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_known_curve_is_found_for_another_prior(prior: float, share: float) -> None:
    """What traffic holds counts, not what the test set holds: only the offset moves, to the prior's odds."""
    slope, offset = fit([scored(share=share)[0]], scored(share=share)[1], prior)

    assert slope == pytest.approx(2.0, abs=0.15)
    assert offset == pytest.approx(math.log(prior / (1 - prior)), abs=0.15)


@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0, 30.0, 100.0])
def test_the_scale_of_the_logits_does_not_matter(scale: float) -> None:
    """Large ones too: a step of Newton's method that goes too far there is made shorter."""
    score, positive = scored(scale)

    slope, offset = fit([score], positive, 0.1)

    assert slope * scale == pytest.approx(2.0, abs=0.15)
    assert offset == pytest.approx(math.log(1 / 9), abs=0.15)


def test_probabilities_are_right_on_such_traffic() -> None:
    """Of texts given 30 % or so, 30 % or so are attacks, where attacks have the share that it was fitted for."""
    score, positive = scored()
    slope, offset = fit([score], positive, 0.2)
    chance = np.random.default_rng(6)
    attack = chance.random(200_000) < 0.2
    traffic = chance.normal(size=200_000) + np.where(attack, 1.0, -1.0)

    p = 1 / (1 + np.exp(-(slope * traffic + offset)))

    for low in (0.05, 0.3, 0.6, 0.85):
        here = (p >= low) & (p < low + 0.1)
        assert attack[here].mean() == pytest.approx(p[here].mean(), abs=0.03)


def test_each_column_has_its_weight() -> None:
    """Two that know different things, and one that knows nothing."""
    score, positive = scored()
    chance = np.random.default_rng(7)
    second = chance.normal(size=len(score)) + np.where(positive, 0.5, -0.5)
    noise = chance.normal(size=len(score))

    first, other, nothing, offset = fit([score, second, noise], positive, 0.5)

    assert (first, other) == pytest.approx((2.0, 1.0), abs=0.15)
    assert (nothing, offset) == pytest.approx((0.0, 0.0), abs=0.12)


@pytest.mark.parametrize("gap", [0.5, 5.0, 500.0])
def test_data_that_are_apart_stay_finite(gap: float) -> None:
    """A curve that could grow for ever is held back, and still tells the two kinds apart."""
    positive = np.arange(100) < 50
    score = np.where(positive, gap, -gap)

    slope, offset = fit([score], positive, 0.1)

    assert math.isfinite(slope)
    assert 0 < slope < 1_000
    assert slope * gap + offset > 0 > -slope * gap + offset


def test_few_texts_and_a_rare_attack_do_not_run_away() -> None:
    """Steps that grow instead of shrinking: of many small sets, none ends at weights that are beyond all reason."""
    chance = np.random.default_rng(0)
    for _ in range(300):
        positive = np.arange(int(chance.integers(20, 200))) < 3
        score = chance.normal(size=len(positive)) + np.where(positive, 2.0, -2.0)
        score[chance.integers(len(positive))] *= 10 ** chance.uniform(0, 3)

        assert max(map(abs, fit([score], positive, 0.001))) < 100


@pytest.mark.parametrize("positive", [np.zeros(20, bool), np.ones(20, bool)])
def test_one_kind_alone_stays_finite(positive: Mask) -> None:
    """And twice the same column, of which no weights are the best."""
    score = np.linspace(-3, 3, 20)

    assert all(map(math.isfinite, fit([score, score], positive, 0.1)))


def test_the_same_data_give_the_same_weights() -> None:
    """To the last bit."""
    score, positive = scored()

    assert fit([score], positive, 0.1) == fit([score], positive, 0.1)


def test_points_are_reached_by_the_share_asked_for() -> None:
    """By surface where there are enough texts; over all of them for the rest."""
    chance = np.random.default_rng(8)
    logits = {
        "prompt": chance.normal(size=5_000).tolist(),
        "document": (chance.normal(size=150) + 10).tolist(),
        "system": (chance.normal(size=149) + 30).tolist(),
    }

    points = ask_points(logits, 0.02)

    assert set(points) == {"default", "prompt", "document"}
    for surface, values in (("prompt", logits["prompt"]), ("document", logits["document"])):
        assert np.mean(np.array(values) >= points[surface]) == pytest.approx(0.02, abs=0.007)
    every = np.array([value for values in logits.values() for value in values])
    assert np.mean(every >= points["default"]) == pytest.approx(0.02, abs=0.001)


def test_a_smaller_share_has_a_higher_point() -> None:
    """For each surface."""
    logits = {"prompt": [float(n) for n in range(1_000)]}

    often, seldom = ask_points(logits, 0.1), ask_points(logits, 0.001)

    assert all(seldom[surface] > often[surface] for surface in often)
    assert often["prompt"] == pytest.approx(899.1)
