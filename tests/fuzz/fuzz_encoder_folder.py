# SPDX-License-Identifier: Apache-2.0
"""Bytes as one file of an encoder's folder, ours or someone else's: ConfigError, or an encoder that judges a text."""

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from shieldwall.core.errors import ConfigError
from shieldwall.detect import Encoder
from tests.detect.weights import encoder_folder, foreign_folder

__all__ = ["SEEDS", "fuzz"]

_TEXTS = ("the garden behind our house: krawol, pilwen", "", "\u5ead\u306e 1984")


@cache
def _folders() -> tuple[dict[str, bytes], ...]:
    """The files of both layouts by name, made once."""
    with tempfile.TemporaryDirectory() as held:
        made = (encoder_folder(Path(held) / "own"), foreign_folder(Path(held) / "foreign"))
        return tuple({path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in made)


def fuzz(data: bytes) -> None:
    """Try the bytes in the place of each file that they could be."""
    kind = _kind(data)
    for files in _folders():
        for name in files:
            if name.endswith(kind):
                _try(files | {name: data})


def _kind(data: bytes) -> str:
    return ".json" if data[:1] in {b"{", b"[", b'"', b" ", b""} else ".onnx"


def _try(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as held:
        for name, data in files.items():
            (Path(held) / name).write_bytes(data)
        with suppress(ConfigError):
            encoder = Encoder(Path(held))
            for text in _TEXTS:
                opinion = encoder.judge(text, "document")
                if opinion is not None:
                    assert 0.0 <= opinion.score <= 1.0
                    assert 0.0 <= opinion.harm <= 1.0
                    assert 0 <= opinion.span[0] <= opinion.span[1] <= len(text)
                    assert opinion.category in {"injection", "jailbreak", "extraction"}


SEEDS: list[bytes] = [
    *(data for files in _folders() for data in files.values()),
    b'{"classes": ["benign", "injection"], "window": 8, "marks": false, "slope": -1e308}',
    b'{"id2label": {"1": "x", "0": "safe", "": "LABEL_0"}, "max_position_embeddings": 9}',
    b'{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"?"}}',
    b'{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}',
]
"""All files of both layouts, descriptions at their bounds, and tokenizers of other kinds."""
