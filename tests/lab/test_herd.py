# SPDX-License-Identifier: Apache-2.0
"""What sketches of one part catch in the other: nothing where attacks have nothing in common, much where they do."""

import argparse
import json
import random

import msgspec
import pytest

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.lab import Label, Row
from shieldwall.lab.evade_commands import add
from shieldwall.lab.herd import herd
from tests.lab.conftest import Write, row

SYLLABLES = (
    "ba",
    "do",
    "fen",
    "gil",
    "hur",
    "jas",
    "kem",
    "lor",
    "mip",
    "nud",
    "pez",
    "qui",
    "rav",
    "sto",
    "tyl",
    "wox",
)


def prose(seed: int, words: int = 60) -> str:
    """Invented words: texts of two seeds have next to nothing in common."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices(SYLLABLES, k=chance.randint(2, 4))) for _ in range(words))


def campaign(number: int, size: int, label: Label = Label.JAILBREAK) -> list[Row]:
    """One template with another end each time: one group."""
    return [
        Row(f"{prose(number)} {prose(1000 + 50 * number + n, 6)}", label, source=f"s{number % 2}", group=f"g{number}")
        for n in range(size)
    ]


CAMPAIGNS = [each for number in range(10) for each in campaign(number, 8)]
BENIGN = [Row(prose(9_000 + n), Label.BENIGN, group=f"b{n}") for n in range(40)]


def test_a_campaign_is_caught_where_others_saw_it() -> None:
    """Parted by row, other uses of a template are known; parted by group, nothing of it was ever shared."""
    found = herd(CAMPAIGNS, BENIGN, splits=3)

    by_group, by_row = found.caught
    assert (by_group.parted, by_row.parted) == ("group", "row")
    assert by_row.labels["all"].value == pytest.approx(1, abs=0.03)
    assert by_group.labels["all"].value == 0
    assert by_row.labels["jailbreak"] == by_row.labels["all"]
    assert by_row.labels["all"].n == by_row.shared == 40
    assert set(by_row.sources) == {"s0", "s1"}
    assert (found.attacks, found.groups, found.too_short) == (80, 10, 0)


def test_a_template_that_groups_share_is_caught_across_them() -> None:
    """Groups may have a frame in common; that is what sharing is worth against attacks that are new."""
    frame = prose(77, 80)
    rows = [Row(f"{frame} {prose(200 + n, 30)}", Label.INJECTION, group=f"g{n}") for n in range(20)]

    found = herd(rows, BENIGN, splits=2)

    assert found.caught[0].labels["injection"].value == 1


def test_harmless_rows_are_not_caught() -> None:
    """And those that do look like a shared attack are counted as what they are."""
    like = [Row(f"{prose(3)} {prose(5_000 + n, 6)}", Label.BENIGN, group=f"c{n}") for n in range(10)]

    calm = herd(CAMPAIGNS, BENIGN, splits=2)
    alike = herd(CAMPAIGNS, [*BENIGN, *like, Row("x", Label.HARMFUL)], splits=2)

    assert [each.benign.value for each in calm.caught] == [0, 0]
    assert alike.caught[1].benign.value == pytest.approx(0.2)
    assert alike.caught[1].benign.n == 50


def test_attacks_too_short_for_a_sketch_are_counted() -> None:
    """They are neither shared nor caught, and stay in the share: leaving them out would flatter."""
    short = [Row(f"Give it, {n}!", Label.EXTRACTION, group=f"k{n}") for n in range(20)]

    found = herd([*CAMPAIGNS, *short], BENIGN, splits=2)

    assert found.too_short == 20
    assert found.caught[1].labels["extraction"].value == 0
    assert found.caught[1].labels["jailbreak"].value == pytest.approx(1, abs=0.03)


def test_the_same_seed_gives_the_same_splits() -> None:
    """All figures are the same; and none of them holds a text."""
    one, two, other = (herd(CAMPAIGNS[::3], BENIGN, splits=2, seed=seed) for seed in (4, 4, 5))

    assert one == two
    assert one != other
    assert prose(3)[:12] not in msgspec.json.encode(one).decode()


def test_what_cannot_be_parted_is_an_error() -> None:
    """One group has no other part; a source that is not there has no attacks."""
    with pytest.raises(InvalidInput, match="cannot be parted"):
        herd(campaign(1, 8), BENIGN)
    with pytest.raises(InvalidInput, match="cannot be parted"):
        herd(CAMPAIGNS, BENIGN, only=["elsewhere"])
    with pytest.raises(ConfigError):
        herd(CAMPAIGNS, BENIGN, splits=0)


def test_the_verb_prints_a_table_or_an_object(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways to part, the false positives, and the digests of what was read."""
    rows = [row(each.text, each.label, source=each.source, group=each.group) for each in [*CAMPAIGNS, *BENIGN]]
    path = write("herd.jsonl", *rows)
    parser = argparse.ArgumentParser(prog="shieldwall lab")
    add(parser.add_subparsers(required=True))

    def run(*more: str) -> tuple[int, str]:
        parsed = parser.parse_args(["herd", "--suite", str(path), "--splits", "2", *more])
        return parsed.run(parsed), capsys.readouterr().out

    code, table = run()
    other, printed = run("--json", "--source", "s1", "--sample", "20")

    assert (code, other) == (0, 0)
    assert "parted by group" in table
    assert "parted by row" in table
    assert "benign rows caught, per million" in table
    found = json.loads(printed)
    assert found["attacks"] == 20
    assert found["only"] == ["s1"]
    assert found["caught"][0]["benign"]["n"] == 20
    assert len(found["digest"]) == len(found["benign_digest"]) == 64
