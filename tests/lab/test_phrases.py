# SPDX-License-Identifier: Apache-2.0
"""The texts of our own: well-formed, labelled, varied, the same for the same seed."""

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from shieldwall.core.errors import ConfigError
from shieldwall.core.text import fold
from shieldwall.lab.disguise import CHANGES, disguise
from shieldwall.lab.generate import diversity, write
from shieldwall.lab.grammar import Grammar
from shieldwall.lab.mixture import CLASSES, Sample, disguised, joined, load_phrases, made, public
from shieldwall.lab.suite import Suite

MAIL = re.compile(r"[\w.+-]+@([a-z0-9-]+(?:\.[a-z0-9-]*[a-z0-9])+)", re.ASCII | re.IGNORECASE)
SURFACES = {"prompt", "system", "document", "tool_result", "tool_definition"}


@cache
def grammar() -> Grammar:
    """All phrases, read once."""
    return load_phrases()


@cache
def some() -> tuple[Sample, ...]:
    """Texts of all labels."""
    return tuple(made(grammar(), 3_000, 1))


def test_every_family_is_named_as_it_must_be() -> None:
    """A label and a surface of ours, a weight, and both attacks and innocent texts in many languages."""
    families = grammar().families.values()

    assert {family.label for family in families} == set(CLASSES)
    assert {family.surface for family in families} == SURFACES
    assert all(1 <= family.weight <= 200 for family in families)
    for label in ("benign", "injection", "jailbreak", "extraction"):
        assert len({family.language for family in families if family.label == label}) >= 20, label


def test_every_family_gives_text() -> None:
    """No empty text, and nothing beyond what a prompt may have."""
    chance = random.Random(5)
    for name in grammar().families:
        for _ in range(3):
            text = grammar().make(name, chance)

            assert text.strip(), name
            assert len(text) < 20_000, name


@pytest.mark.parametrize("prefix", ["tool.events", "tool.search", "tool.field"])
def test_tool_results_that_look_like_json_are(prefix: str) -> None:
    """An attack in a string of a JSON value leaves the value whole: the carrier gives nothing away."""
    chance = random.Random(6)
    names = [name for name in grammar().families if name.startswith(prefix)]
    texts = [grammar().make(name, chance) for name in names for _ in range(20)]

    whole = [text for text in texts if text.startswith("{") and text.endswith("}")]

    assert whole
    assert all(isinstance(json.loads(text), dict) for text in whole)


def test_the_same_seed_gives_the_same_texts() -> None:
    """And another seed others."""
    assert made(grammar(), 200, 1) == made(grammar(), 200, 1)
    assert [each.text for each in made(grammar(), 200, 1)] == [each.text for each in some()[:200]]
    assert {each.text for each in made(grammar(), 200, 2)}.isdisjoint({each.text for each in some()[:200]})


def test_no_text_is_both_attack_and_innocent() -> None:
    """A label is a pure matter of the text."""
    labels: dict[str, set[bool]] = {}
    for sample in some():
        labels.setdefault(sample.text, set()).add(sample.label == "benign")

    assert all(len(found) == 1 for found in labels.values())


def test_the_texts_are_varied() -> None:
    """No four words in a row stand in more than 1 of 30 texts of a label, and few texts share any."""
    for label, found in diversity(some()).items():
        assert found.texts > 50, label
        assert found.commonest < (0.08 if label == "harmful" else 1 / 30), label
        assert found.distinct_fours > 0.55, label


def test_no_attack_leans_on_the_phrase_everybody_knows() -> None:
    """A detector that learnt `ignore previous instructions` learnt nothing."""
    known = re.compile(r"ignore (all |any )?(the )?(previous|prior|above) instructions", re.IGNORECASE)
    attacks = [sample for sample in some() if sample.label in {"injection", "jailbreak", "extraction"}]

    assert sum(1 for sample in attacks if known.search(sample.text)) < 0.03 * len(attacks)


def test_only_reserved_names_stand_in_addresses() -> None:
    """No text sends anybody to a host that may exist (RFC 2606)."""
    reserved = re.compile(r"(^|\.)(example(\.(com|org|net))?|test|invalid|localhost)$")
    hosts = [host for sample in some() for host in MAIL.findall(sample.text)]

    assert len(hosts) > 50
    assert {host for host in hosts if not reserved.search(host.lower())} == set()


def test_innocent_texts_are_joined_to_the_same_hosts_as_attacks() -> None:
    """Half of the joined texts are innocent, and the place of what was joined is known."""
    hosts = [Sample("One line.\nAnother line.", "benign", "document", "en", "own", "own/1", 1.0)]

    texts = joined(grammar(), hosts, 40, 3)

    assert Counter(each.label for each in texts) == {"injection": 20, "benign": 20}
    assert all(each.text[each.focus :] != each.text or each.focus == 0 for each in texts)
    assert all("One line." in each.text and "Another line." in each.text for each in texts)


def test_a_large_source_does_not_drown_a_small_one() -> None:
    """Each counts by the root of its size; rows without a licence and rows that teach a carrier are left out."""
    row = {"label": "benign", "surface": "user", "language": "en", "licence": "MIT"}
    rows = [row | {"text": f"t{n}", "source": "large", "group": f"l{n}"} for n in range(400)]
    rows += [row | {"text": f"s{n}", "source": "small", "group": f"s{n}"} for n in range(4)]
    rows += [row | {"text": "x", "source": "bare", "group": "x", "licence": "none-stated"}]
    rows += [row | {"text": "y", "source": "microsoft/BIPIA", "group": "y"}]

    samples = public(rows)

    share = {name: sum(each.weight for each in samples if each.source == name) for name in ("large", "small")}
    assert share["large"] / share["small"] == pytest.approx(10)
    assert {each.source for each in samples} == {"large", "small"}
    assert {each.source for each in public(rows, unlicensed=True)} == {"large", "small", "bare"}


def test_written_texts_are_a_suite(tmp_path: Path) -> None:
    """What `lab generate` writes, `lab run` reads."""
    path = tmp_path / "made.jsonl"

    count = write(some()[:50], path)
    rows = list(Suite.find(str(path)).rows())

    assert count == len(rows) == 50
    assert [row.text for row in rows] == [sample.text for sample in some()[:50]]


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"encoded", "swapped", "dropped", "doubled", "spaced", "split"}))
def test_what_only_looks_different_folds_to_the_same(name: str) -> None:
    """Look-alikes, hidden characters, full width and case leave nothing once folded; leet leaves its digits."""
    text = "Please water the plants on the balcony before noon."
    changed = CHANGES[name](text, random.Random(7))

    folded = fold(changed).lower()

    if name == "leet":
        folded = folded.translate(str.maketrans("431057", "aeiost"))
    assert folded == text.lower()


def test_disguises_come_by_chance_and_seed() -> None:
    """A share of the samples is changed, the same ones for the same seed; labels stay."""
    changed = disguised(some()[:500], 9, share=0.5)

    assert changed == disguised(some()[:500], 9, share=0.5)
    assert [each.label for each in changed] == [each.label for each in some()[:500]]
    assert 150 < sum(one.text != other.text for one, other in zip(changed, some(), strict=False)) < 350


@pytest.mark.parametrize("text", ["", "a", "12", "\n\n", "é"])
def test_short_texts_can_be_disguised(text: str) -> None:
    """Nothing raises where there is nothing to change."""
    for seed in range(30):
        assert isinstance(disguise(text, random.Random(seed)), str)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stray", "before the first list"),
        ("@ a.b injection prompt", "a family is written"),
        ("== a\nx {nowhere}", "names no list"),
        ("== a\nx {a|unheard}", "not known"),
        ("== a\n\n== b\nx", "is empty"),
        ("== a\n{9-1}", "ends before it begins"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str, said: str) -> None:
    """What is wrong and where."""
    with pytest.raises(ConfigError, match=said):
        Grammar([("own.txt", text)])


def test_a_circle_of_lists_is_noticed() -> None:
    """Two lists that stand in each other end in an error, not in the stack's end."""
    circle = Grammar([("own.txt", "== a\n{b}\n== b\n{a}\n@ f.a benign prompt en 1 {a}")])

    with pytest.raises(ConfigError, match="circle"):
        circle.make("f.a", random.Random(1))
