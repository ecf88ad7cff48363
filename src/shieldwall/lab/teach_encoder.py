# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes the encoder tier: samples in, a checkpoint out, resumable at any step.

What makes it generalise was chosen on held-out sources: word embeddings stay as pre-trained, a share of the tokens is
hidden at random, classes are drawn by fixed shares and hard sources more often, and long texts are learnt in windows,
as they are judged. Imported late: torch comes with training alone.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812  the field's name for it

from shieldwall.core.text import fold
from shieldwall.detect import CLS, HIDDEN_SURFACE, PAD, SEP, WINDOW, surface_token
from shieldwall.lab.bert import Bert
from shieldwall.lab.draws import Draws
from shieldwall.lab.mixture import CLASSES, Sample
from shieldwall.lab.plans import EncoderPlan

__all__ = ["EncoderTeacher"]

_MASK = 103
_FIRST_WORD, _LAST_WORD = 999, 30_000
_WIDTH = 32
"""Lengths are padded to a multiple of this: the kernels for a shape are made once."""
_POOL = 8
"""Batches that are drawn together, so that texts of one length share a batch."""


class _Text(NamedTuple):
    number: int
    """Of the sample."""
    ids: Sequence[int]
    at: int
    """Token that the label is about, or -1."""
    surface: int
    label: int


class EncoderTeacher:
    """Holds the network, its optimiser and where it stands."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401  tokenizers has no types
        base: Path,
        plan: EncoderPlan,
        parts: Sequence[tuple[float, Sequence[Sample]]],
    ) -> None:
        """Read the samples.

        Args:
            tokenizer: Of the base model, without truncation and padding.
            base: Weights to start from, safetensors.
            plan: How to train.
            parts: Share and samples of each part.
        """
        self.plan = plan
        torch.manual_seed(plan.seed)
        self.network = Bert(len(CLASSES))
        self.network.load_base(base)
        for module in (self.network.words, self.network.places, self.network.norm, *self.network.layers[: plan.frozen]):
            module.requires_grad_(False)  # noqa: FBT003  torch's signature
        self.network.kind.requires_grad_(False)  # noqa: FBT003
        self.average = {name: value.clone() for name, value in self.network.state_dict().items() if _kept(name)}
        self._optimiser = torch.optim.AdamW(self._groups(), weight_decay=0.01)
        self._draws = Draws(parts, plan.seed)
        self._texts = _read(tokenizer, [sample for _, samples in parts for sample in samples])
        self.step = 0

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        depth = len(self.network.layers)
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                layer = int(name.split(".")[1]) if name.startswith("layers.") else depth
                scale = 0.9 ** max(0, depth - 1 - layer) * (5.0 if "head" in name else 1.0)
                groups.append({"params": [parameter], "lr": 0.0, "scale": scale})
        return groups

    def train(self, checkpoint: Path, say: Callable[[str], None]) -> None:
        """Learn until the plan's last step; saves on the way."""
        start, losses = time.monotonic(), []
        batches = self._batches()
        while self.step < self.plan.steps:
            losses.append(self._learn(next(batches)))
            self.step += 1
            if self.step % 50 == 0:
                mean = sum(losses[-50:]) / len(losses[-50:])
                say(f"encoder step {self.step}/{self.plan.steps} loss {mean:.3f} {time.monotonic() - start:.0f} s")
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self.save(checkpoint)

    def _batches(self) -> Iterator[list[_Text]]:
        """Endless batches; a pool of them at a time, so that after a resumption a new pool begins."""
        while True:
            chance = random.Random(self.plan.seed * 7_919 + self.step)  # noqa: S311
            pool = [
                self._cropped(self._texts[index], chance)
                for index in self._draws.take(self.step, _POOL * self.plan.tokens // 64)
            ]
            # Texts of one length together: padding is work for nothing.
            pool.sort(key=lambda text: len(text.ids))
            cuts = list(_cut(pool, self.plan.tokens))
            chance.shuffle(cuts)
            yield from cuts[:_POOL]

    def _cropped(self, text: _Text, chance: random.Random) -> _Text:
        room = WINDOW - 3
        ids = text.ids
        if len(ids) > room:
            low, high = 0, len(ids) - room
            if text.at >= 0:
                low, high = max(low, text.at - room * 3 // 4), min(high, text.at)
            start = chance.choice((low, high, chance.randint(min(low, high), max(low, high))))
            ids = ids[start : start + room]
        shown = [
            (_MASK if chance.random() < 0.7 else chance.randint(_FIRST_WORD, _LAST_WORD))
            if chance.random() < self.plan.hidden
            else each
            for each in ids
        ]
        surface = HIDDEN_SURFACE if chance.random() < self.plan.surface_hidden else text.surface
        return text._replace(ids=[CLS, surface, *shown, SEP])

    def _learn(self, batch: Sequence[_Text]) -> float:
        ids, attention, labels = _tensors(batch)
        rate = self._rate()
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(ids, attention)
        losses = F.cross_entropy(logits.float(), labels, label_smoothing=self.plan.smoothing, reduction="none")
        loss = losses.mean()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self._draws.learnt([text.number for text in batch], losses.tolist())
        self._remember()
        return float(loss.item())

    def _rate(self) -> float:
        done = self.step / self.plan.steps
        warm = min(1.0, (self.step + 1) / self.plan.warm_up)
        return self.plan.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def _remember(self) -> None:
        """Keep a running average of the weights: what it says is steadier than any one step."""
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if name in self.average:
                self.average[name].lerp_(value, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything needed to go on, whole or not at all."""
        draft = path.with_suffix(".new")
        state = {
            "step": self.step,
            "network": {name: value for name, value in self.network.state_dict().items() if _kept(name)},
            "average": self.average,
            "optimiser": self._optimiser.state_dict(),
            "losses": self._draws.losses,
        }
        torch.save(state, draft)
        draft.replace(path)

    def resume(self, path: Path) -> None:
        """Go on where a checkpoint of the same plan stands."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"], strict=False)
        self.average = state["average"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._draws.losses = state["losses"]

    def averaged(self) -> Bert:
        """The network to use: that of the averaged weights."""
        self.network.load_state_dict(self.average, strict=False)
        return self.network.eval()


def _kept(name: str) -> bool:
    """Whether training may change this."""
    return name not in {"words.weight", "places.weight"}


def _read(tokenizer: Any, samples: Sequence[Sample]) -> list[_Text]:  # noqa: ANN401
    """Tokens of all samples."""
    read: list[_Text] = []
    for start in range(0, len(samples), 4096):
        some = samples[start : start + 4096]
        coded = tokenizer.encode_batch([fold(sample.text) for sample in some], add_special_tokens=False)
        for sample, code in zip(some, coded, strict=True):
            at = -1
            if sample.focus >= 0:
                at = next((number for number, (_, end) in enumerate(code.offsets) if end > sample.focus), -1)
            read.append(_Text(len(read), code.ids, at, surface_token(sample.surface), CLASSES.index(sample.label)))
    return read


def _cut(pool: Sequence[_Text], tokens: int) -> Iterator[list[_Text]]:
    """Batches of few different shapes."""
    at = 0
    while at < len(pool):
        size = max(1, tokens // _padded(len(pool[at].ids)))
        # A batch may hold texts of the next greater width only if the smaller one does not fill it.
        size = max(1, tokens // _padded(len(pool[min(at + size, len(pool)) - 1].ids)))
        if at + size <= len(pool):
            yield list(pool[at : at + size])
        at += size


def _padded(length: int) -> int:
    return -(-length // _WIDTH) * _WIDTH


def _tensors(batch: Sequence[_Text]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = _padded(max(len(text.ids) for text in batch))
    ids = torch.tensor([[*text.ids, *([PAD] * (width - len(text.ids)))] for text in batch])
    return ids, (ids != PAD).long(), torch.tensor([text.label for text in batch])
