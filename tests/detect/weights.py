# SPDX-License-Identifier: Apache-2.0
"""Small weights made on the spot: random ones, and ones that listen to a few made-up words and to nothing else.

None of it was learnt. `random_fast` is for what must hold whatever the numbers are; `telling_fast` and the two folders
are for what must follow from a certain opinion. The made-up words mean nothing in any language: no text is hostile.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from shieldwall.detect import FastHeader, FastTier, FastWeights, Points, Vocabulary
from shieldwall.detect.encoder import CLASSES

HINTED: Final = "zumbel"
"""The fast tier is in doubt about it."""
SHOUTED: Final = "krawol"
"""The fast tier takes it for an injection by itself."""
PLAYED: Final = "fintra"
"""It takes this for a jailbreak."""
BURNING: Final = "brodek"
"""It takes this for harmful."""
TRUSTED: Final = "pilwen"
"""The encoder takes it for an injection, the fast tier is in doubt."""
FILLER: Final = ("the", "garden", "behind", "our", "house", "grows", "beans", "and", "a", "few", "tall", "flowers")

POINTS: Final = Points(ask={"default": -2.0}, alone={"default": 2.0}, encoder=1.0, fast=0.0, base=0.0)
"""Operating points that fit `telling_fast`: the hint is asked about, the shout is found even without an encoder."""

_WIDTH, _FILTERS, _HIDDEN = 6, 7, 5
_SPAN, _SURFACES = 5, 8


def hashes(words: Sequence[str]) -> np.ndarray:
    """Of single words, as the fast tier knows them."""
    reader = Vocabulary(np.zeros(0, np.uint32))
    return np.array([reader.read(word.encode())[4][0] for word in words], np.uint32)


def random_fast(seed: int = 1, words: Sequence[str] = FILLER, header: FastHeader | None = None) -> FastWeights:
    """Weights drawn at random; any text has an opinion of its own."""
    chance = np.random.default_rng(seed)
    known = hashes(words)
    count = Vocabulary(known).row_count

    def real(*shape: int) -> np.ndarray:
        return chance.normal(size=shape).astype(np.float32)

    return FastWeights(
        header=header or FastHeader(slope=0.8, offset=-0.5, harm_slope=1.2, harm_offset=0.25, version="random"),
        words=known,
        rows=chance.integers(-127, 128, (count, _WIDTH)).astype(np.int8),
        steps=(0.01 * chance.random(count) + 0.001).astype(np.float32),
        filters=real(_SPAN, _WIDTH, _FILTERS),
        filter_bias=real(_FILTERS),
        hidden=0.5 * real(2 * _FILTERS, _HIDDEN),
        surfaces=real(_SURFACES, _HIDDEN),
        last=real(_HIDDEN, len(CLASSES)),
        last_bias=real(len(CLASSES)),
    )


def telling_fast() -> FastWeights:
    """Weights that hear the made-up words only: a window says how loud the loudest of each class is."""
    loud = {HINTED: (40, 0, 0), TRUSTED: (40, 0, 0), SHOUTED: (100, 0, 0), PLAYED: (0, 100, 0), BURNING: (0, 0, 100)}
    known = hashes(list(loud))
    reader = Vocabulary(known)
    rows = np.zeros((reader.row_count, 3), np.int8)
    rows[reader.first_row :] = list(loud.values())
    filters = np.zeros((_SPAN, 3, 3), np.float32)
    filters[_SPAN // 2] = np.eye(3)
    hidden = np.zeros((6, 3), np.float32)
    hidden[:3] = np.eye(3)
    last = np.zeros((3, len(CLASSES)), np.float32)
    for place, name in enumerate(("injection", "jailbreak", "harmful")):
        last[place, CLASSES.index(name)] = 1.0
    return FastWeights(
        header=FastHeader(version="telling"),
        words=known,
        rows=rows,
        steps=np.full(len(rows), 0.1, np.float32),
        filters=filters,
        filter_bias=np.zeros(3, np.float32),
        hidden=hidden,
        surfaces=np.zeros((_SURFACES, 3), np.float32),
        last=last,
        last_bias=np.array([5, 0, 0, 0, 0], np.float32),
    )


def random_tier(seed: int = 1) -> FastTier:
    """A fast tier of random weights."""
    return FastTier(random_fast(seed))


def telling_tier() -> FastTier:
    """A fast tier that hears the made-up words."""
    return FastTier(telling_fast())


def tokenizer(*, marks: bool = False) -> Tokenizer:
    """Word pieces: the made-up and the filling words, and letters for all others; the marks of BERT at their places.

    Args:
        marks: Whether the tokenizer puts its own marks around a text, as those of other people's classifiers do.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
    pieces = {"[PAD]": 0} | {f"[unused{number}]": number for number in range(1, 100)}
    pieces |= {"[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
    for piece in (*FILLER, HINTED, SHOUTED, PLAYED, BURNING, TRUSTED, *letters, *(f"##{letter}" for letter in letters)):
        pieces.setdefault(piece, len(pieces))
    made = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if marks:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
        )
    return made


def classifier(
    loud: Mapping[int, Sequence[float]],
    size: int,
    *,
    calm: Sequence[float] = (3.0, 0.0, 0.0, 0.0, 0.0),
    names: Sequence[str] = ("ids", "attention"),
    places: int = 4096,
) -> bytes:
    """An ONNX sequence classifier: of each class the loudest piece counts.

    Args:
        loud: What a piece adds to each class; all others add nothing.
        size: Of the vocabulary.
        calm: What a text without loud pieces is taken for.
        names: Of the inputs; ids first, then the mask, then what the model does not care about.
        places: Most pieces that the model takes at once.
    """
    table = np.zeros((size, len(calm)), np.float32)
    for piece, adds in loud.items():
        table[piece] = adds
    constants = {
        "table": table,
        "calm": np.array(calm, np.float32),
        "places": np.zeros((places, 1), np.float32),
        "one": np.array([1], np.int64),
        "none": np.array([0], np.int64),
        "last": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", names[0]], ["pieces"]),
        helper.make_node("Shape", [names[0]], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Slice", ["places", "none", "length", "none"], ["here"]),
        helper.make_node("Add", ["pieces", "here"], ["placed"]),
        helper.make_node("Unsqueeze", [names[1], "last"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["placed", "mask"], ["seen"]),
        helper.make_node("ReduceMax", ["seen"], ["loudest"], axes=[1], keepdims=0),
        helper.make_node("Add", ["loudest", "calm"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(calm)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def encoder_folder(folder: Path, **header: Any) -> Path:
    """A folder in our own layout; its encoder hears the shout, the trusted, the played and the burning word.

    Args:
        folder: Where to; it is made.
        header: What stands in `encoder.json`.
    """
    words = tokenizer()
    loud = {
        words.token_to_id(word): [9.0 if name == heard else 0.0 for name in CLASSES]
        for word, heard in (
            (SHOUTED, "injection"),
            (TRUSTED, "injection"),
            (PLAYED, "jailbreak"),
            (BURNING, "harmful"),
        )
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.onnx").write_bytes(classifier(loud, words.get_vocab_size()))
    (folder / "tokenizer.json").write_text(words.to_str())
    (folder / "encoder.json").write_bytes(msgspec.json.encode({"classes": CLASSES, "version": "tiny", **header}))
    return folder


def foreign_folder(folder: Path, labels: Sequence[str] = ("SAFE", "INJECTION"), **config: Any) -> Path:
    """A folder in the layout of Hugging Face: two labels, the tokenizer's own marks, one more input.

    Args:
        folder: Where to; it is made.
        labels: Of the outputs, in order; the last one is for the trusted word.
        config: What else stands in `config.json`.
    """
    words = tokenizer(marks=True)
    adds = [0.0] * len(labels)
    adds[-1] = 8.0
    model = classifier(
        {words.token_to_id(TRUSTED): adds},
        words.get_vocab_size(),
        calm=[3.0, *[0.0] * (len(labels) - 1)],
        names=("input_ids", "attention_mask", "token_type_ids"),
        places=64,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "tokenizer.json").write_text(words.to_str())
    told = {"id2label": dict(enumerate(labels)), "max_position_embeddings": 64, "model_type": "tiny", **config}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def check_model(data: bytes) -> None:
    """Raises when the bytes are no valid ONNX model."""
    onnx.checker.check_model(onnx.load_model_from_string(data))
