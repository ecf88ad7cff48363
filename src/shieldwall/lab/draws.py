# SPDX-License-Identifier: Apache-2.0
"""Which samples a model learns from next: fixed shares of parts and labels, and more of what it still gets wrong.

Inside a part and a label, sources are drawn by the weight of their samples, times how hard they are: the running loss
of a source over that of its label, between a half and the double. Hard negatives are found this way as training goes,
at no cost. A public source with wrong labels stays hard forever; the bound keeps it from taking over.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from shieldwall.lab.mixture import CLASSES, Sample

__all__ = ["SHARES", "Draws"]

SHARES: Mapping[str, float] = {"benign": 0.5, "injection": 0.2, "jailbreak": 0.13, "extraction": 0.08, "harmful": 0.09}
"""Share of the draws of each label."""
_LEAST, _MOST = 0.5, 2.0
_KEEP = 0.95
"""Of a source's running loss at each new sample."""


class _Source(NamedTuple):
    name: str
    weight: float
    samples: Sequence[int]
    sums: Sequence[float]


class Draws:
    """Draws indexes of samples. What comes depends on the seed, the step and the losses told, on nothing else."""

    def __init__(self, parts: Sequence[tuple[float, Sequence[Sample]]], seed: int) -> None:
        """Sort the samples.

        Args:
            parts: Share and samples of each part; indexes count through all parts in their order.
            seed: Of the draws.
        """
        self._seed = seed
        self._cells: dict[tuple[int, str], list[_Source]] = {}
        self._names: list[str] = []
        self._shares = [share for share, _ in parts]
        base = 0
        for number, (_, samples) in enumerate(parts):
            found: dict[tuple[str, str], list[int]] = {}
            for at, sample in enumerate(samples):
                found.setdefault((sample.label, sample.source), []).append(at)
                self._names.append(f"{sample.label} {sample.source}")
            for (label, source), places in found.items():
                sums = list(accumulate(samples[at].weight for at in places))
                entry = _Source(f"{label} {source}", sums[-1], [base + at for at in places], sums)
                self._cells.setdefault((number, label), []).append(entry)
            base += len(samples)
        self.losses: dict[str, float] = {}
        """Running loss by label and source: what a checkpoint must keep."""

    def take(self, step: int, count: int) -> list[int]:
        """Indexes of the samples for a step."""
        chance = random.Random(self._seed * 1_000_003 + step)  # noqa: S311  chance for variety, not for secrets
        ready = {key: list(accumulate(self._weights(cell))) for key, cell in self._cells.items()}
        parts = {
            label: [number for number in range(len(self._shares)) if (number, label) in ready] for label in CLASSES
        }
        labels = [label for label in CLASSES if parts[label]]
        taken = []
        for label in chance.choices(labels, [SHARES[label] for label in labels], k=count):
            part = chance.choices(parts[label], [self._shares[number] for number in parts[label]])[0]
            source = chance.choices(self._cells[part, label], cum_weights=ready[part, label])[0]
            taken.append(chance.choices(source.samples, cum_weights=source.sums)[0])
        return taken

    def learnt(self, indexes: Sequence[int], losses: Sequence[float]) -> None:
        """Say how wrong the model was about samples that were drawn."""
        for index, loss in zip(indexes, losses, strict=True):
            name = self._names[index]
            self.losses[name] = self.losses[name] * _KEEP + loss * (1 - _KEEP) if name in self.losses else loss

    def _weights(self, cell: Sequence[_Source]) -> list[float]:
        known = [self.losses[source.name] for source in cell if source.name in self.losses]
        mean = sum(known) / len(known) if known else 0.0
        if mean <= 0:
            return [source.weight for source in cell]
        return [source.weight * min(_MOST, max(_LEAST, self.losses.get(source.name, mean) / mean)) for source in cell]
