# SPDX-License-Identifier: Apache-2.0
"""What the fast tier learns from the encoder: windows of texts, and what the encoder says of each.

A label speaks of a whole text; the encoder says which of its windows carries the attack.
"""

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from shieldwall.core.text import fold
from shieldwall.detect import Encoder, Vocabulary
from shieldwall.lab.draws import Draws
from shieldwall.lab.mixture import CLASSES, Sample

__all__ = ["Lesson", "ask", "lessons"]


_BATCH = 32


class Lesson(NamedTuple):
    """A window to learn from."""

    text: str
    surface: str
    label: int
    """Of the text it is from."""
    begins: bool
    """Whether the text begins here."""
    ends: bool
    """Whether it ends here."""


def lessons(parts: Sequence[tuple[float, Sequence[Sample]]], count: int, seed: int) -> list[Lesson]:
    """Windows of drawn texts, no two alike.

    Args:
        parts: Share and samples of each part.
        count: How many; fewer come where there is no more.
        seed: The same seed gives the same windows.
    """
    samples = [sample for _, part in parts for sample in part]
    draws = Draws(parts, seed)
    words = Vocabulary(np.zeros(0, np.uint32))
    chance = random.Random(seed)  # noqa: S311  chance for variety, not for secrets
    seen: set[tuple[int, int]] = set()
    found: list[Lesson] = []
    for step in range(4):
        for index in draws.take(step, count):
            sample = samples[index]
            folded = fold(sample.text).encode("utf-8", "replace")
            spans = words.windows(folded)
            place = chance.randrange(len(spans))
            if (index, place) in seen:
                continue
            seen.add((index, place))
            start, end = spans[place]
            text = folded[start:end].decode("utf-8", "replace")
            label = CLASSES.index(sample.label)
            found.append(Lesson(text, sample.surface, label, place == 0, place == len(spans) - 1))
            if len(found) == count:
                return found
    return found


def ask(encoder: Encoder, asked: Sequence[Lesson], say: Callable[[str], None]) -> np.ndarray:
    """Outputs of the encoder for each window, float32 (windows, classes)."""
    # Texts of one length together: padding is work for nothing.
    order = sorted(range(len(asked)), key=lambda at: len(asked[at].text))
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    out = np.zeros((len(asked), len(CLASSES)), np.float32)

    def one(batch: Sequence[int]) -> np.ndarray:
        return encoder.raw([asked[at].text for at in batch], [asked[at].surface for at in batch])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (batch, found) in enumerate(zip(batches, pool.map(one, batches), strict=True)):
            out[batch] = found
            if number % 200 == 0:
                say(f"encoder asked about {number * _BATCH}/{len(asked)} windows")
    return out
