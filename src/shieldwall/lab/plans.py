# SPDX-License-Identifier: Apache-2.0
"""How the learned tiers are trained: every number that is chosen rather than learnt."""

import msgspec

__all__ = ["EncoderPlan", "FastPlan", "PoolPlan", "TrainPlan"]


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to put together."""

    made: int = 120_000
    """Texts of our own."""
    joined: int = 20_000
    """Texts put into real documents."""
    unlicensed: bool = False
    """Also learn from rows whose licence is not stated."""
    seed: int = 1


class EncoderPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to train."""

    steps: int = 3600
    tokens: int = 3072
    """Of a batch, padding included."""
    rate: float = 8e-5
    """Greatest learning rate, for the last layer; each layer below learns a tenth slower."""
    warm_up: int = 200
    hidden: float = 0.1
    """Share of tokens that are hidden or changed."""
    surface_hidden: float = 0.25
    smoothing: float = 0.05
    frozen: int = 1
    """Layers that stay as pre-trained, counted from below."""
    seed: int = 1
    save_every: int = 250


class FastPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to train."""

    windows: int = 160_000
    """To learn from."""
    words: int = 40_000
    """Most frequent words that are known, beside those of the encoder's vocabulary."""
    least: int = 4
    """Windows a word must stand in."""
    width: int = 64
    filters: int = 64
    hidden: int = 48
    epochs: int = 12
    batch: int = 256
    rate: float = 2e-3
    word_rate: float = 1e-3
    dropped: float = 0.15
    """Share of the words that are left out at random."""
    trust: float = 0.7
    """Weight of the encoder's opinion; the rest is the label's, where the window is the whole text."""
    heat: float = 1.5
    """The encoder's logits are divided by this: what it finds second likeliest is worth learning, too."""
    surface_hidden: float = 0.25
    seed: int = 1


class TrainPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. The same plan on the same corpora gives the same tiers, up to the rounding of the machine."""

    pool: PoolPlan = PoolPlan()
    encoder: EncoderPlan = EncoderPlan()
    fast: FastPlan = FastPlan()
    prior: float = 0.2
    """Share of attacks in the traffic that probabilities are calibrated for."""
    asked: float = 0.0075
    """Share of ordinary texts that the encoder is asked about."""

    @classmethod
    def small(cls) -> "TrainPlan":
        """A run of minutes that shows that everything works; its tiers are of no use."""
        return cls(
            pool=PoolPlan(made=3_000, joined=500),
            encoder=EncoderPlan(steps=20, warm_up=5, save_every=10),
            fast=FastPlan(windows=2_000, words=5_000, epochs=2),
        )
