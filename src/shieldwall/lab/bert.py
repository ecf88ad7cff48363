# SPDX-License-Identifier: Apache-2.0
"""A small BERT with classes instead of words at the end, in plain PyTorch: what the encoder tier is trained as.

Reads the weights of a Hugging Face `BertModel` from a safetensors file, such as all-MiniLM-L6-v2. Imported late: torch
comes with training alone.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2019), the post-norm encoder.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the field's name for it

__all__ = ["Bert", "Shape"]


class Shape:
    """Sizes of the network; those of all-MiniLM-L6-v2."""

    vocabulary = 30_522
    positions = 512
    width = 384
    inner = 1536
    layers = 6
    heads = 12


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = Shape.width
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, Shape.inner)
        self.down = nn.Linear(Shape.inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """One layer; `mask` is added to the attention scores."""
        batch, length, width = x.shape
        heads, size = Shape.heads, width // Shape.heads
        query, key, value = self.qkv(x).view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Token ids in, a logit per class out: from the mean and the greatest of what the last layer says of each token."""

    heads = Shape.heads

    def __init__(self, classes: int) -> None:
        super().__init__()
        width = Shape.width
        self.words = nn.Embedding(Shape.vocabulary, width)
        self.places = nn.Embedding(Shape.positions, width)
        self.kind = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer() for _ in range(Shape.layers))
        self.head = nn.Linear(2 * width, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            ids: Token ids, (batch, length).
            attention: 1 where there is a token, 0 where there is padding, same shape.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.kind)
        there = attention.to(x.dtype)
        mask = ((1.0 - there) * -10_000.0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        there = there[:, :, None]
        mean = (x * there).sum(1) / there.sum(1).clamp(min=1.0)
        greatest = (x + (1.0 - there) * -10_000.0).max(1).values
        return self.head(torch.cat((mean, greatest), 1))

    def load_base(self, path: Path) -> None:
        """Take the weights of a pre-trained `BertModel`; the head stays as it is."""
        from safetensors.torch import load_file

        found = {name.removeprefix("bert."): tensor for name, tensor in load_file(str(path)).items()}
        state = {
            "words.weight": found["embeddings.word_embeddings.weight"],
            "places.weight": found["embeddings.position_embeddings.weight"],
            "kind": found["embeddings.token_type_embeddings.weight"][0],
            "norm.weight": found["embeddings.LayerNorm.weight"],
            "norm.bias": found["embeddings.LayerNorm.bias"],
        }
        for number in range(Shape.layers):
            old, new = f"encoder.layer.{number}.", f"layers.{number}."
            for part in ("weight", "bias"):
                parts = [found[f"{old}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
                state[f"{new}qkv.{part}"] = torch.cat(parts)
                state[f"{new}out.{part}"] = found[f"{old}attention.output.dense.{part}"]
                state[f"{new}norm1.{part}"] = found[f"{old}attention.output.LayerNorm.{part}"]
                state[f"{new}up.{part}"] = found[f"{old}intermediate.dense.{part}"]
                state[f"{new}down.{part}"] = found[f"{old}output.dense.{part}"]
                state[f"{new}norm2.{part}"] = found[f"{old}output.LayerNorm.{part}"]
        missing = self.load_state_dict(state, strict=False).missing_keys
        if set(missing) != {"head.weight", "head.bias"}:
            raise ValueError(f"the file lacks {', '.join(sorted(set(missing) - {'head.weight', 'head.bias'}))}")
