# SPDX-License-Identifier: Apache-2.0
"""Draws: shares hold whatever the sizes, what is hard comes more often within a bound, and chance can be repeated."""

from collections import Counter

import pytest

from shieldwall.lab.draws import SHARES, Draws
from shieldwall.lab.mixture import CLASSES, Sample

MANY = 20_000
"""Draws of one look: shares are then right to a hundredth."""


def samples(label: str, source: str, count: int, weight: float = 1.0) -> list[Sample]:
    return [Sample(f"{source} {n}", label, "prompt", "en", source, f"{source}/{n}", weight) for n in range(count)]


def mixed() -> list[tuple[float, list[Sample]]]:
    """Two parts of very different sizes; the second holds no harmful sample, the last source of the first is heavy."""
    first = [each for label in CLASSES for each in samples(label, "street", 40)] + samples("benign", "lake", 10, 12.0)
    second = [each for label in CLASSES if label != "harmful" for each in samples(label, "hill", 5)]
    return [(0.75, first), (0.25, second)]


def drawn(draws: Draws, parts: list[tuple[float, list[Sample]]], step: int = 1, count: int = MANY) -> list[Sample]:
    every = [sample for _, part in parts for sample in part]
    return [every[index] for index in draws.take(step, count)]


def test_labels_have_their_shares() -> None:
    """However many samples there are of each."""
    found = Counter(sample.label for sample in drawn(Draws(mixed(), 1), mixed()))

    assert {label: found[label] / MANY for label in CLASSES} == pytest.approx(dict(SHARES), abs=0.012)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_parts_have_their_shares_within_a_label() -> None:
    """A part that has nothing of a label gives way to those that have."""
    found = drawn(Draws(mixed(), 1), mixed())

    plain = [sample for sample in found if sample.label != "harmful"]
    hill = sum(sample.source == "hill" for sample in plain) / len(plain)
    assert hill == pytest.approx(0.25, abs=0.012)
    assert {sample.source for sample in found if sample.label == "harmful"} == {"street"}


def test_sources_and_samples_are_drawn_by_their_weight() -> None:
    """Ten heavy samples together weigh three times as much as forty light ones; each of them is drawn."""
    found = [sample for sample in drawn(Draws(mixed(), 1), mixed()) if sample.label == "benign"]

    by_source = Counter(sample.source for sample in found)
    assert by_source["lake"] / (by_source["lake"] + by_source["street"]) == pytest.approx(0.75, abs=0.02)
    assert len({sample.text for sample in found}) == 40 + 10 + 5


def test_a_label_that_is_not_there_is_left_out() -> None:
    """The others keep their proportion."""
    parts = [(1.0, samples("benign", "lake", 3) + samples("injection", "lake", 3))]

    found = Counter(sample.label for sample in drawn(Draws(parts, 1), parts))

    assert found["benign"] / MANY == pytest.approx(0.5 / 0.7, abs=0.012)
    assert set(found) == {"benign", "injection"}


@pytest.mark.parametrize("part", [0, 1])
def test_indexes_count_through_all_parts(part: int) -> None:
    """A part without a share gives nothing: all indexes are those of the other one."""
    parts = [(float(number == part), samples("benign", f"part {number}", 7)) for number in range(2)]

    assert set(Draws(parts, 1).take(0, 300)) == set(range(7 * part, 7 * part + 7))


def sources(hardness: dict[str, float], seed: int = 1) -> tuple[Draws, list[tuple[float, list[Sample]]]]:
    """Sources of one label and of equal weight; what is named in `hardness` was learnt with that loss."""
    parts = [(1.0, [each for name in ("a", "b", "c", "new") for each in samples("benign", name, 5)])]
    draws = Draws(parts, seed)
    for number, sample in enumerate(parts[0][1]):
        if sample.source in hardness:
            draws.learnt([number], [hardness[sample.source]])
    return draws, parts


@pytest.mark.parametrize("loss", [1.5, 3.0, 30.0, 3000.0])
def test_a_hard_source_comes_more_often_within_the_bound(loss: float) -> None:
    """Measured against one of middling hardness: more, in the order of the losses, never more than the double."""
    draws, parts = sources({"a": loss, "b": 1.0, "c": 0.5})

    found = Counter(sample.source for sample in drawn(draws, parts))

    assert found["a"] > found["b"] * 1.1
    assert found["a"] > found["new"] * 1.1
    assert found["a"] <= found["new"] * 2.1


@pytest.mark.parametrize("loss", [0.5, 0.0001])
def test_an_easy_source_still_comes(loss: float) -> None:
    """At least half as often as one of middling hardness."""
    draws, parts = sources({"a": loss, "b": 2.0, "c": 2.0})

    found = Counter(sample.source for sample in drawn(draws, parts))

    assert found["new"] / 2.1 <= found["a"] < found["new"]


def test_a_loss_far_beyond_changes_nothing_more() -> None:
    """Beyond the bound a source with wrong labels gains nothing by being ever more wrong."""
    one, parts = sources({"a": 1e3, "b": 1.0, "c": 1.0})
    other, _ = sources({"a": 1e9, "b": 1.0, "c": 1.0})

    assert one.take(3, 500) == other.take(3, 500)
    assert Counter(sample.source for sample in drawn(one, parts)).keys() == {"a", "b", "c", "new"}


def test_where_nothing_is_wrong_weights_alone_count() -> None:
    """Losses of zero are no reason to draw nothing."""
    draws, parts = sources({"a": 0.0, "b": 0.0, "c": 0.0})

    assert draws.take(1, 500) == Draws(parts, 1).take(1, 500)


def test_a_loss_is_remembered_for_a_while() -> None:
    """A running mean: one sample changes it a little, many change it wholly."""
    draws, _ = sources({"a": 1.0})
    name = "benign a"
    draws.learnt([0], [11.0])
    assert draws.losses[name] == pytest.approx(1.5)

    draws.learnt([0] * 300, [11.0] * 300)
    assert draws.losses[name] == pytest.approx(11.0, abs=0.01)


def test_losses_of_another_label_change_nothing() -> None:
    """The same source may be hard in its attacks and easy in its harmless texts."""
    parts = [(1.0, samples("benign", "a", 5) + samples("injection", "a", 5) + samples("injection", "b", 5))]
    draws = Draws(parts, 1)
    draws.learnt([5, 10], [1.0, 1.0])
    before = draws.take(1, 200)

    draws.learnt([0], [50.0])

    assert draws.take(1, 200) == before


def test_chance_depends_on_seed_step_and_losses_alone() -> None:
    """Steps in any order, twice, or after a resumption: the same draws; another seed or step gives others."""
    draws, parts = sources({"a": 2.0, "b": 1.0})
    forward = [draws.take(step, 50) for step in range(6)]
    backward = [draws.take(step, 50) for step in reversed(range(6))][::-1]

    resumed = Draws(parts, 1)
    resumed.losses = dict(draws.losses)
    fresh = Draws(parts, 1)

    assert forward == backward
    assert [resumed.take(step, 50) for step in range(6)] == forward
    assert fresh.take(3, 50) != forward[3]
    assert len({tuple(each) for each in forward}) == 6
    assert Draws(parts, 2).take(3, 50) != fresh.take(3, 50)
