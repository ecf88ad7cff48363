# SPDX-License-Identifier: Apache-2.0
"""Single learned tiers as defences: each is measured by itself, on the text as the cascade would show it."""

from collections.abc import Sequence

from shieldwall.core.text import fold
from shieldwall.detect import Encoder, FastTier
from shieldwall.lab.defence import Description, Item, Judged

__all__ = ["EncoderDefence", "FastDefence"]


class FastDefence:
    """The fast tier: the probability of the worst window."""

    name = "fast"

    def __init__(self, tier: FastTier) -> None:
        self._tier = tier

    def describe(self) -> Description:
        """See `Defence`."""
        return Description(kind="detector", version=self._tier.version)

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`."""
        return [
            Judged(self._tier.judge(fold(item.text).encode("utf-8", "replace"), item.surface.value).score)
            for item in items
        ]

    def close(self) -> None:
        """See `Defence`."""


class EncoderDefence:
    """An encoder, asked about everything. Where it does not know the language, it says 0."""

    name = "encoder"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def describe(self) -> Description:
        """See `Defence`."""
        return Description(kind="detector", version=self._encoder.version)

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`."""
        judged = []
        for item in items:
            opinion = self._encoder.judge(fold(item.text), item.surface.value)
            judged.append(Judged(0.0 if opinion is None else opinion.score))
        return judged

    def close(self) -> None:
        """See `Defence`."""
