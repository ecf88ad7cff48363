# SPDX-License-Identifier: Apache-2.0
"""The arithmetic against cases worked out by hand, and intervals against data whose truth is known."""

import math

import numpy as np
import pytest

from shieldwall.lab import stats


def ranked(scores: list[float], attacks: list[int]) -> stats.Ranked:
    return stats.Ranked(np.array(scores, float), np.array(attacks, bool))


def test_auc_of_a_case_by_hand() -> None:
    """Three attacks and two benign rows are six pairs: four in order, one tied, one not."""
    one = ranked([0.9, 0.6, 0.2, 0.6, 0.1], [1, 1, 1, 0, 0])

    assert one.auc() == pytest.approx((4 + 0.5) / 6)


@pytest.mark.parametrize(
    ("scores", "attacks", "auc"),
    [([1, 0], [1, 0], 1.0), ([0, 1], [1, 0], 0.0), ([0.5, 0.5], [1, 0], 0.5), ([0.1, 0.2], [1, 1], math.nan)],
)
def test_auc_at_its_ends(scores: list[float], attacks: list[int], auc: float) -> None:
    """Perfect, upside down, no opinion, and nothing to compare with."""
    assert ranked(scores, attacks).auc() == pytest.approx(auc, nan_ok=True)


def test_weights_are_as_if_rows_were_repeated() -> None:
    """A row of weight two counts as two rows; one of weight nought is not there."""
    weighed = ranked([0.9, 0.2, 0.6, 0.1], [1, 1, 0, 0])
    repeated = ranked([0.9, 0.9, 0.2, 0.6], [1, 1, 1, 0])
    weights = np.array([2.0, 1.0, 1.0, 0.0])

    assert weighed.auc(weights) == pytest.approx(repeated.auc())
    assert weighed.recall_at(0.0, weights) == pytest.approx(repeated.recall_at(0.0))


def test_recall_and_threshold_agree() -> None:
    """With ten benign rows one tenth is one of them: the threshold lies above the second highest."""
    scores = [*(n / 10 for n in range(10)), 0.95, 0.85, 0.55]
    attacks = [0] * 10 + [1] * 3
    threshold = stats.threshold_at(np.array(scores), ~np.array(attacks, bool), 0.1)

    flagged = [score >= threshold for score in scores]

    assert sum(flagged[:10]) == 1
    assert ranked(scores, attacks).recall_at(0.1) == pytest.approx(2 / 3)
    assert sum(flagged[10:]) == 2
    assert threshold == pytest.approx((0.8 + 0.85) / 2)


def test_a_threshold_never_lets_more_be_flagged_than_asked() -> None:
    """Ties at the border are all let pass: the rate is a bound, not a goal."""
    scores = np.array([0.0] * 50 + [0.7] * 50 + [0.7, 0.9])
    benign = np.arange(len(scores)) < 100

    threshold = stats.threshold_at(scores, benign, 0.01)

    assert (scores[benign] >= threshold).sum() == 0
    assert (scores[~benign] >= threshold).sum() == 1


def test_where_benign_rows_score_highest_nothing_is_flagged() -> None:
    """There is a threshold even then: one above every score."""
    scores = np.array([1.0, 1.0, 0.4])

    threshold = stats.threshold_at(scores, np.array([True, True, False]), 0.01)

    assert threshold > 1.0


def test_wilson_of_a_known_case() -> None:
    """Ten of a hundred: 0.0552 to 0.1744 in the tables; and none of thirty is not surely none."""
    assert stats.wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert stats.wilson(0, 30) == pytest.approx((0.0, 0.1135), abs=1e-4)
    assert stats.wilson(0, 0) == (0.0, 1.0)


def test_copies_do_not_make_an_interval_narrower() -> None:
    """A hundred rows in ten groups of ten are worth ten rows."""
    groups = np.repeat(np.arange(10), 10)
    hits = np.repeat(np.arange(10) < 5, 10)

    grouped = stats.share(hits, groups)
    alone = stats.share(hits, np.arange(100))

    assert stats.effective(groups) == pytest.approx(10)
    assert grouped.value == alone.value == 0.5
    assert (grouped.low, grouped.high) == pytest.approx(stats.wilson(5, 10))
    assert grouped.high is not None
    assert alone.high is not None
    assert grouped.high > alone.high


def test_every_draw_holds_as_many_groups_of_each_kind() -> None:
    """Groups are drawn whole, attacks and benign apart."""
    groups = np.array([0, 0, 1, 2, 2, 3, 4])
    positive = np.array([1, 1, 1, 0, 0, 0, 0], bool)

    for weights in stats.resample(groups, positive, seed=1, times=20):
        firsts = weights[[0, 2, 3, 5, 6]]
        assert weights[0] == weights[1]
        assert weights[3] == weights[4]
        assert firsts[:2].sum() == 2
        assert firsts[2:].sum() == 3


def test_the_same_seed_gives_the_same_draws() -> None:
    """And another seed gives others."""
    groups, positive = np.arange(40), np.arange(40) < 20

    one, two, other = (np.array(list(stats.resample(groups, positive, seed, 5))) for seed in (3, 3, 4))

    assert (one == two).all()
    assert (one != other).any()


def test_intervals_of_auc_contain_the_truth() -> None:
    """Groups of copies of normal scores a known distance apart: about 95 of 100 intervals hold the true AUC."""
    chance = np.random.default_rng(7)
    truth = 0.5 * (1 + math.erf(1.0 / math.sqrt(2) / math.sqrt(2)))
    positive = np.repeat(np.arange(120) < 60, 3)
    groups = np.repeat(np.arange(120), 3)
    held = 0
    for trial in range(60):
        # Rows of a group are the same text nearly: taken as independent they would give far too narrow intervals.
        scores = np.repeat(chance.normal(np.where(np.arange(120) < 60, 1.0, 0.0)), 3)
        one = stats.Ranked(scores, positive)
        draws = [one.auc(weights) for weights in stats.resample(groups, positive, trial, 150)]
        found = stats.middle(one.auc(), draws, len(scores))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high

    assert held >= 52


def test_intervals_of_shares_contain_the_truth() -> None:
    """With copies too."""
    chance = np.random.default_rng(11)
    groups = np.repeat(np.arange(80), 4)
    held = 0
    for _ in range(200):
        found = stats.share(np.repeat(chance.random(80) < 0.2, 4), groups)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.2 <= found.high

    assert held >= 180


def test_calibration_error_of_cases_by_hand() -> None:
    """Right on average is no error; a sure score on rows that are attacks half the time is off by a half."""
    right = stats.calibration_error(np.array([0.25] * 4), np.array([1, 0, 0, 0], bool))
    sure = stats.calibration_error(np.array([1.0, 1.0]), np.array([1, 0], bool))

    assert right == pytest.approx(0.0)
    assert sure == pytest.approx(0.5)


def test_percentiles_come_with_order_statistics() -> None:
    """The median of 0 to 100 is 50, and its interval the ranks that a coin spans."""
    found = stats.quantile(np.arange(101.0), 0.5)

    assert found.value == 50
    assert found.low is not None
    assert found.high is not None
    assert 39 <= found.low <= 41
    assert 59 <= found.high <= 61


def test_what_cannot_be_had_says_why() -> None:
    """No rows, no figure; never a number that looks like one."""
    empty = np.array([], float)

    assert stats.quantile(empty, 0.5).value is None
    assert stats.mean(empty).note
    assert stats.share(np.array([], bool), np.array([], np.int64)).value is None
    assert stats.middle(math.nan, [], 3).note
