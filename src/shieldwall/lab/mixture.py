# SPDX-License-Identifier: Apache-2.0
"""What our detectors learn from: public corpora weighed by source, and texts of our own made from phrases.

Four parts, each with a share of the draws:

- **public**: the rows of the corpora. Each source counts by the square root of its size, so that a large one does not
  drown the small ones. Rows of a source that teaches a carrier's style, and composed rows that repeat the same attack
  strings, count less. Rows whose licence is not stated are left out unless asked for.
- **made**: texts of the families in `phrases`, attacks and their innocent twins.
- **joined**: made attacks, and their innocent counterparts, put into real documents and tool results.
- **disguised**: some of all of these in the spellings that normalisation meets.

Every row has a group; rows of one group are on one side of any split. The same seed gives the same rows.
"""

import itertools
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from shieldwall.detect import CLASSES
from shieldwall.lab.disguise import disguise
from shieldwall.lab.grammar import Family, Grammar

__all__ = ["CLASSES", "Sample", "disguised", "joined", "load_phrases", "made", "public"]

_DROPPED = ("microsoft/BIPIA",)
"""Its attack sentences are ordinary tasks: only their place makes them attacks, and what is learnt is the carrier."""
_COMPOSED_WEIGHT = 0.3
_MAX_CARRIER = 700
"""Code points. Longer documents with an attack do not say where it stands: most windows would teach the carrier."""
_SAID = frozenset({"user", "prompt", "system"})
_MAX_CHARS = 4000
_MAX_SOURCE_ROWS = 6000
_DISGUISED = 0.06
_SHINGLE = 4
_TOO_NEAR = 0.6


class Sample(NamedTuple):
    """One text to learn from."""

    text: str
    label: str
    surface: str
    language: str
    source: str
    group: str
    weight: float
    """Relative to the other samples of its part."""
    focus: int = -1
    """Where the text that makes the label stands, code points from the start; -1 where that is not known."""


def load_phrases() -> Grammar:
    """The phrases that come with the package."""
    folder = resources.files("shieldwall.lab").joinpath("phrases")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return Grammar([(file.name, file.read_text("utf-8")) for file in files])


def public(rows: Iterable[Mapping[str, str]], *, unlicensed: bool = False) -> list[Sample]:
    """Rows of the corpora with their weights.

    Args:
        rows: With the columns text, label, surface, language, source, licence, group.
        unlicensed: Also take rows whose licence is not stated.
    """
    by_source: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["source"] in _DROPPED or (not unlicensed and row["licence"].startswith("none-stated")):
            continue
        if row["label"] == "injection" and row["surface"] not in _SAID and len(row["text"]) > _MAX_CARRIER:
            continue
        by_source[row["source"], row["label"]].append(row)
    samples = []
    for (source, label), found in sorted(by_source.items()):
        groups = len({row["group"] for row in found})
        # Half a group's worth: a thousand rows of ten groups say little more than ten rows.
        weight = (min(groups * 4, len(found), _MAX_SOURCE_ROWS) ** 0.5) / len(found)
        if source.startswith("compose"):
            weight *= _COMPOSED_WEIGHT
        samples += [
            Sample(
                row["text"][:_MAX_CHARS],
                label,
                _SURFACES[str(row["surface"])],
                row["language"],
                source,
                row["group"],
                weight,
            )
            for row in found
        ]
    return samples


_SURFACES = {"user": "prompt", "tool_output": "tool_result"} | {
    word: word for word in ("prompt", "document", "tool_result", "system", "tool_definition", "response", "unknown")
}


def made(grammar: Grammar, count: int, seed: int) -> list[Sample]:
    """Texts of all families by their weights, no two of them near each other.

    Args:
        grammar: The phrases.
        count: How many; fewer come where the phrases give no more that is new.
        seed: The same seed gives the same texts.
    """
    chance = random.Random(seed)  # noqa: S311  chance for variety, not for secrets
    families = list(grammar.families.values())
    each = list(_family_weights(families))
    weights = list(itertools.accumulate(each))
    seen = _Seen()
    samples: list[Sample] = []
    for _ in range(2 * count):
        if len(samples) >= count:
            break
        family = chance.choices(families, cum_weights=weights)[0]
        text = grammar.make(family.name, chance).strip()[:_MAX_CHARS]
        if not seen.is_new(text):
            continue
        source = f"made/{family.name}"
        samples.append(
            Sample(
                text, family.label, _SURFACES[family.surface], family.language, source, f"{source}/{len(samples)}", 1
            )
        )
    # A family of whole texts gives few, one of many slots gives thousands: each is drawn by its weight all the same.
    counts = Counter(sample.source for sample in samples)
    shares = {f"made/{family.name}": weight for family, weight in zip(families, each, strict=True)}
    return [sample._replace(weight=shares[sample.source] / counts[sample.source]) for sample in samples]


def _family_weights(families: Sequence[Family]) -> Iterator[float]:
    """Each label its share, each language the root of what its families ask for."""
    shares = {"benign": 0.5, "injection": 0.24, "jailbreak": 0.13, "extraction": 0.1, "harmful": 0.03}
    totals: dict[str, float] = defaultdict(float)
    roots: dict[tuple[str, str], float] = defaultdict(float)
    for family in families:
        roots[family.label, family.language] += family.weight
    for (label, _), total in roots.items():
        totals[label] += total**0.7
    for family in families:
        total = roots[family.label, family.language]
        yield shares[family.label] * total**0.7 / totals[family.label] * family.weight / total


class _Seen:
    """Texts by some of their shingles of words, to leave out what is nearly the same."""

    def __init__(self) -> None:
        self._shingles: dict[int, list[frozenset[int]]] = defaultdict(list)

    def is_new(self, text: str) -> bool:
        words = text.lower().split()
        grams = frozenset(
            zlib.crc32(" ".join(words[at : at + _SHINGLE]).encode()) for at in range(max(1, len(words) - _SHINGLE + 1))
        )
        keys = sorted(grams)[:3]
        for key in keys:
            for other in self._shingles[key][-20:]:
                if len(grams & other) > _TOO_NEAR * len(grams | other):
                    return False
        for key in keys:
            self._shingles[key].append(grams)
        return True


def joined(grammar: Grammar, hosts: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Made attacks and innocent texts put into real documents: half and half, the same kind of place for both.

    Args:
        grammar: The phrases; its lists `inject.text` and `fine.text` are what is put in.
        hosts: Benign samples of the surfaces document and tool_result.
        count: How many.
        seed: The same seed gives the same texts.
    """
    chance = random.Random(seed)  # noqa: S311
    samples = []
    for number in range(count):
        host = chance.choice(hosts)
        attack = number % 2 == 0
        inner = grammar.expand("{inject.text}" if attack else "{fine.text}", chance)
        lines = host.text[:1500].split("\n")
        place = chance.choice((0, len(lines), chance.randint(0, len(lines))))
        text = "\n".join((*lines[:place], inner, *lines[place:]))
        focus = sum(len(line) + 1 for line in lines[:place])
        label = "injection" if attack else "benign"
        samples.append(Sample(text, label, host.surface, host.language, "joined", f"{host.group}/joined", 1, focus))
    return samples


def disguised(samples: Sequence[Sample], seed: int, share: float = _DISGUISED) -> list[Sample]:
    """The samples, some of them spelled as somebody would who wants to pass unseen. The innocent ones too."""
    chance = random.Random(seed)  # noqa: S311
    return [
        sample._replace(text=disguise(sample.text, chance)) if chance.random() < share else sample for sample in samples
    ]
