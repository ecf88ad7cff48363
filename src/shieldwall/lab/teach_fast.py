# SPDX-License-Identifier: Apache-2.0
"""Trains the fast tier: windows with labels and the encoder's opinions in, weights out.

Words begin as the encoder's pre-trained vectors, reduced by principal components, so that words of like meaning are
alike before anything is learnt. Imported late: torch comes with training alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the field's name for it

from shieldwall.detect import FastHeader, FastWeights, Vocabulary, surface_token
from shieldwall.lab.distil import Lesson
from shieldwall.lab.mixture import CLASSES
from shieldwall.lab.plans import FastPlan

__all__ = ["teach_fast"]

_SURFACES = 8
_EDGE = 2
"""Empty words on each side of a text; `FastWeights.filters` has a span of twice that and one."""
_FIRST_WORD = 999
"""Of the vocabulary; before it stand marks and letters."""
_START = 0.33
"""Spread of the word vectors at the start."""


class _Net(nn.Module):
    def __init__(self, plan: FastPlan, vectors: np.ndarray, first_row: int) -> None:
        super().__init__()
        self.words = nn.Embedding(first_row + len(vectors), plan.width, padding_idx=0)
        self.filters = nn.Conv1d(plan.width, plan.filters, 2 * _EDGE + 1)
        self.hidden = nn.Linear(2 * plan.filters, plan.hidden, bias=False)
        self.surfaces = nn.Embedding(_SURFACES, plan.hidden)
        self.last = nn.Linear(plan.hidden, len(CLASSES))
        self.some = nn.Dropout(0.2)
        with torch.no_grad():
            self.words.weight.mul_(0.1)
            self.words.weight[first_row:] = torch.from_numpy(vectors)
            self.words.weight[0] = 0
            self.surfaces.weight.mul_(0.1)

    def forward(self, first: Tensor, second: Tensor, sizes: Tensor, surfaces: Tensor) -> Tensor:
        """Logits; the arguments are rows of words (batch, length), their number, and the surface of each window."""
        x = self.words(first) + self.words(second)
        x = F.relu(self.filters(x.transpose(1, 2)))
        number = sizes - 2 * _EDGE
        there = (torch.arange(x.shape[2])[None] < number[:, None])[:, None]
        x = x * there
        pooled = torch.cat((x.amax(2), x.sum(2) / number.clamp(min=1)[:, None]), 1)
        return self.last(F.relu(self.hidden(self.some(pooled)) + self.surfaces(surfaces)))  # type: ignore[no-any-return]


class _Coded(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    starts: np.ndarray


def teach_fast(
    plan: FastPlan,
    windows: Sequence[Lesson],
    opinions: np.ndarray,
    tokenizer: Any,  # noqa: ANN401  tokenizers has no types
    base: Path,
    say: Callable[[str], None],
) -> FastWeights:
    """Learn.

    Args:
        plan: How.
        windows: What from.
        opinions: The encoder's logits, (windows, classes).
        tokenizer: Of the encoder.
        base: Pre-trained weights of the encoder, safetensors.
        say: Told how it goes.
    """
    torch.manual_seed(plan.seed)
    words, vectors = _vocabulary(plan, windows, tokenizer, base)
    vocabulary = Vocabulary(words)
    coded = _code(vocabulary, windows)
    net = _Net(plan, vectors, vocabulary.first_row)
    surfaces = torch.tensor([surface_token(each.surface) for each in windows])
    targets = _targets(plan, windows, opinions)
    rates = {"words.weight": plan.word_rate}
    optimiser = torch.optim.Adam(
        [{"params": [each], "top": rates.get(name, plan.rate)} for name, each in net.named_parameters()], lr=0.0
    )
    chance = torch.Generator().manual_seed(plan.seed)
    start, steps = time.monotonic(), plan.epochs * (len(windows) // plan.batch)
    done, losses = 0, []
    for epoch in range(plan.epochs):
        order = torch.randperm(len(windows), generator=chance)
        for at in range(0, len(windows) - plan.batch + 1, plan.batch):
            some = order[at : at + plan.batch]
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * min(1.0, (done + 1) / 200) * (1 - done / steps)
            hidden = torch.rand(len(some), generator=chance) < plan.surface_hidden
            shown = torch.where(hidden, _SURFACES - 1, surfaces[some])
            loss = F.cross_entropy(net(*_batch(coded, some.numpy(), plan.dropped, chance), shown), targets[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            done += 1
        say(f"fast epoch {epoch + 1}/{plan.epochs} loss {np.mean(losses[-500:]):.3f} {time.monotonic() - start:.0f} s")
    return _weights(net.eval(), words)


def _vocabulary(
    plan: FastPlan,
    windows: Sequence[Lesson],
    tokenizer: Any,  # noqa: ANN401  tokenizers has no types
    base: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the known words, and a vector for each: the mean of what the encoder begins with for its pieces."""
    reader = Vocabulary(np.zeros(0, np.uint32))
    counts: Counter[int] = Counter()
    spelled: dict[int, str] = {}

    def read(text: str) -> list[int]:
        data = text.encode("utf-8", "replace")
        _, _, starts, ends, hashes = reader.read(data)
        for start, end, word in zip(starts.tolist(), ends.tolist(), hashes.tolist(), strict=True):
            if word not in spelled:
                spelled[word] = data[start:end].decode("utf-8", "replace")
        return hashes.tolist()  # type: ignore[no-any-return]

    for each in windows:
        counts.update(set(read(each.text)))
    known = dict.fromkeys(word for word, count in counts.most_common(plan.words) if count >= plan.least)
    for piece in tokenizer.get_vocab():
        if len(piece) > 1 and piece.isalpha():
            found = read(piece)
            if len(found) == 1:
                known.setdefault(found[0])
    table = load_file(str(base))
    name = next(name for name in table if name.endswith("embeddings.word_embeddings.weight"))
    pieces = table[name].astype(np.float32)
    middle = pieces[_FIRST_WORD:].mean(axis=0)
    _, _, turned = np.linalg.svd(pieces[_FIRST_WORD::3] - middle, full_matrices=False)
    reduced = (pieces - middle) @ turned[: plan.width].T
    vectors = np.zeros((len(known), plan.width), np.float32)
    for row, code in enumerate(tokenizer.encode_batch([spelled[word] for word in known], add_special_tokens=False)):
        ids = [piece for piece in code.ids if piece != tokenizer.token_to_id("[UNK]")]
        if ids:
            vectors[row] = reduced[ids].mean(axis=0)
    return np.array(list(known), np.uint32), vectors * (_START / vectors.std())


def _code(vocabulary: Vocabulary, windows: Sequence[Lesson]) -> _Coded:
    firsts, seconds, starts = [], [], [0]
    for each in windows:
        first, second, *_ = vocabulary.read(each.text.encode("utf-8", "replace"))
        # A window inside a text is judged without the empty words that stand around a whole text.
        here = slice(0 if each.begins else _EDGE, len(first) - (0 if each.ends else _EDGE))
        if here.stop - here.start <= 2 * _EDGE:
            here = slice(0, len(first))
        firsts.append(first[here].copy())
        seconds.append(second[here].copy())
        starts.append(starts[-1] + len(firsts[-1]))
    return _Coded(np.concatenate(firsts), np.concatenate(seconds), np.array(starts))


def _targets(plan: FastPlan, windows: Sequence[Lesson], opinions: np.ndarray) -> Tensor:
    soft = torch.softmax(torch.from_numpy(opinions) / plan.heat, 1)
    hard = F.one_hot(torch.tensor([each.label for each in windows]), len(CLASSES)).float()
    # A benign text is benign in each of its windows; an attack may stand in another one.
    whole = torch.tensor([each.label == 0 or (each.begins and each.ends) for each in windows])
    trust = torch.where(whole, plan.trust, 1.0)[:, None]
    return trust * soft + (1 - trust) * hard


def _batch(coded: _Coded, some: np.ndarray, dropped: float, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    sizes = coded.starts[some + 1] - coded.starts[some]
    first, second = np.zeros((2, len(some), int(sizes.max())), np.int64)
    for row, at in enumerate(some):
        start, end = coded.starts[at], coded.starts[at + 1]
        first[row, : end - start] = coded.first[start:end]
        second[row, : end - start] = coded.second[start:end]
    kept = torch.rand(first.shape, generator=chance) >= dropped
    return torch.from_numpy(first) * kept, torch.from_numpy(second) * kept, torch.from_numpy(sizes)


def _weights(net: _Net, words: np.ndarray) -> FastWeights:
    rows = net.words.weight.detach().numpy()
    steps = np.maximum(np.abs(rows).max(axis=1), 1e-9) / 127

    def array(tensor: Tensor) -> np.ndarray:
        return np.ascontiguousarray(tensor.detach().numpy().astype(np.float32))

    return FastWeights(
        FastHeader(),
        words,
        np.rint(rows / steps[:, None]).astype(np.int8),
        steps.astype(np.float32),
        array(net.filters.weight.permute(2, 1, 0)),
        array(net.filters.bias),
        array(net.hidden.weight.T),
        array(net.surfaces.weight),
        array(net.last.weight.T),
        array(net.last.bias),
    )
