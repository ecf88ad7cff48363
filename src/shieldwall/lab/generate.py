# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab generate`: texts of our own as a suite, and how varied they are.

They are for training and for trying things out, never for judging a detector that was trained on them.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.lab.mixture import Sample

__all__ = ["Diversity", "diversity", "write"]


class Diversity(NamedTuple):
    """How varied a set of texts is."""

    texts: int
    families: int
    languages: int
    words: int
    """Words in all."""
    distinct_pairs: float
    """Share of pairs of neighbouring words that are the only one of their kind or its first: 1 where none repeats."""
    distinct_fours: float
    """The same for four words in a row."""
    commonest: float
    """Share of texts that hold the commonest four words in a row: what a detector could learn by heart."""


def diversity(samples: Sequence[Sample]) -> dict[str, Diversity]:
    """Diversity of the samples of each label."""
    by_label: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    return {label: _measure(found) for label, found in sorted(by_label.items())}


def _measure(samples: Sequence[Sample]) -> Diversity:
    pairs: set[int] = set()
    fours: Counter[int] = Counter()
    words = pair_count = four_count = 0
    for sample in samples:
        found = sample.text.lower().split()
        words += len(found)
        two, four = list(_grams(found, 2)), list(_grams(found, 4))
        pair_count += len(two)
        four_count += len(four)
        pairs.update(two)
        fours.update(set(four))
    return Diversity(
        texts=len(samples),
        families=len({sample.source for sample in samples}),
        languages=len({sample.language for sample in samples}),
        words=words,
        distinct_pairs=len(pairs) / max(1, pair_count),
        distinct_fours=len(fours) / max(1, four_count),
        commonest=max(fours.values(), default=0) / max(1, len(samples)),
    )


def _grams(words: Sequence[str], size: int) -> Iterable[int]:
    for at in range(len(words) - size + 1):
        yield zlib.crc32(" ".join(words[at : at + size]).encode("utf-8", "replace"))


def write(samples: Iterable[Sample], path: Path) -> int:
    """Write samples as a suite of JSON lines; gives how many. Raises ConfigError where that is not possible."""
    count = 0
    try:
        with path.open("wb") as file:
            for sample in samples:
                row = {
                    "text": sample.text,
                    "label": sample.label,
                    "surface": sample.surface,
                    "language": sample.language,
                    "source": sample.source,
                    "licence": "Apache-2.0",
                    "group": sample.group,
                }
                file.write(msgspec.json.encode(row) + b"\n")
                count += 1
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="name a file in a directory") from None
    return count
