# SPDX-License-Identifier: Apache-2.0
"""Leave-one-source-out: whole families are held out, nothing of them is trained on, and the mean is over sources."""

from collections.abc import Sequence

import pytest

from shieldwall.core.errors import ConfigError
from shieldwall.lab import Defence, Label, Row
from shieldwall.lab.rotate import family, folds, rotate
from shieldwall.lab.score import Method
from shieldwall.lab.trainers import trainer, trainers

FAST = Method(resamples=20)


def rows(source: str, attacks: int, benign: int, word: str = "Attack") -> list[Row]:
    return [
        *(Row(f"{word} {source} {n}", Label.INJECTION, source=source, group=f"{source}-a{n}") for n in range(attacks)),
        *(Row(f"Hello {source} {n}", Label.BENIGN, source=source, group=f"{source}-b{n}") for n in range(benign)),
        Row("Something bad", Label.HARMFUL, source=source, group=f"{source}-h"),
    ]


CORPUS = [
    *rows("ann/one", 40, 10),
    *rows("compose(ann)", 30, 0),
    *rows("bob/two", 30, 20),
    *rows("cid/three", 25, 0, "Strange"),
    *rows("dee/four", 3, 30),
    *rows("eve/five", 0, 50),
]


def test_families_stay_together() -> None:
    """An owner's repositories, and what was composed from them."""
    assert family("ann/one") == family("ann/other") == family("compose(ann)") == "ann"

    chosen = folds(CORPUS, 8)

    assert len(chosen) == 4
    assert sum(len(each) for each in chosen) == 6
    assert any({"ann/one", "compose(ann)"} <= each for each in chosen)
    assert all({row.source for row in CORPUS if row.label is Label.INJECTION} & each for each in chosen)


def test_nothing_that_is_held_out_is_trained_on() -> None:
    """Neither its sources nor a row elsewhere that is of one of its groups."""
    shared = Row("Attack from elsewhere", Label.INJECTION, source="bob/two", group="ann/one-a0")
    seen: list[set[str]] = []
    train = trainer("python:tests.lab.functions:train")

    def spy(given: Sequence[Row]) -> Defence:
        assert not ({row.group for row in given if row.source == "bob/two"} & {"ann/one-a0"}) or any(
            row.source == "ann/one" for row in given
        )
        seen.append({row.source for row in given})
        return train(given)

    rotation = rotate([*CORPUS, shared], spy, "spy", method=FAST)

    sources = {row.source for row in CORPUS}
    assert [sources - each for each in seen] == [set(each) for each in folds([*CORPUS, shared])]
    assert rotation.folds == 4


def test_a_new_kind_of_attack_shows() -> None:
    """A trainer that learns words knows the sources whose words occur elsewhere, and not the one with its own."""
    rotation = rotate(CORPUS, trainer("python:tests.lab.functions:train"), "words", method=FAST)

    aucs = {held.source: held.auc.value for held in rotation.sources}
    assert aucs["ann/one"] == aucs["compose(ann)"] == aucs["bob/two"] == 1.0
    assert aucs["cid/three"] == 0.5
    assert rotation.mean.value == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert rotation.mean.low is not None
    assert rotation.mean.low <= rotation.mean.value


def test_a_source_with_few_attacks_does_not_count() -> None:
    """It is reported, and said not to be in the mean."""
    rotation = rotate(CORPUS, trainer("python:tests.lab.functions:train"), "words", method=FAST)

    (few,) = (held for held in rotation.sources if held.source == "dee/four")
    assert not few.counts
    assert few.attacks == 3
    assert "eve/five" not in {held.source for held in rotation.sources}


def test_one_source_cannot_be_rotated() -> None:
    """There would be nothing to train on."""
    with pytest.raises(ConfigError, match="two sources"):
        folds(rows("ann/one", 30, 30))


@pytest.mark.parametrize("spec", ["nonsense", "python:tests.lab.functions:absent"])
def test_a_trainer_that_is_not_there_is_an_error(spec: str) -> None:
    """Which ones there are stands in the hint."""
    assert "nonsense" not in trainers()
    with pytest.raises(ConfigError):
        trainer(spec)


def test_a_trainer_that_makes_no_function_is_an_error() -> None:
    """Said when it has trained, with what it should have returned."""
    with pytest.raises(ConfigError, match="does not return"):
        trainer("python:tests.lab.functions:nothing")([])
