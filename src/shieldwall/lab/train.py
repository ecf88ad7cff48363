# SPDX-License-Identifier: Apache-2.0
"""From corpora to the learned tiers, in stages that each leave a file: what is there is not made again.

    pool.parquet     what is learnt from                     lab.pool
    encoder.ckpt     the encoder in training                 lab.teach_encoder
    encoder.onnx     the encoder, 8-bit                      lab.onnx_graph
    opinions.npy     what it says of many windows            lab.distil
    fast.npz         the fast tier                           lab.teach_fast
    encoder.json, points.json, report.json   calibration and operating points, and how well it all does

The last line is done at every start. The directory holds one run: a run with another plan, other corpora, other rows
besides or another given encoder in it is refused.
"""

import hashlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from shieldwall.core.errors import ConfigError
from shieldwall.detect import Encoder, EncoderHeader, FastWeights, decode_fast, encode_fast
from shieldwall.lab.base_model import BASE_SHA256, base_files, read_tokenizer
from shieldwall.lab.distil import Lesson, ask, lessons
from shieldwall.lab.extras import missing
from shieldwall.lab.mixture import Sample
from shieldwall.lab.plans import TrainPlan
from shieldwall.lab.pool import PARTS, Pool, assemble, read_pool, write_pool
from shieldwall.lab.run import machine, versions
from shieldwall.lab.settle import TRAFFIC, settle
from shieldwall.lab.sheet import sheet
from shieldwall.lab.suite import Rejected, Row, Suite, digest_of

__all__ = ["Run", "train"]

_ALSO = 0.1
"""Share of the draws of texts that are learnt from besides."""
_ENCODER = ("tokenizer.json", "encoder.json", "encoder.onnx")
"""What an encoder is; the last is there only when all are."""
_NEEDED = ("torch", "onnx", "safetensors", "tokenizers")


class Run(NamedTuple):
    """A training run: where it stands and what it is made from."""

    work: Path
    plan: TrainPlan
    corpora: Path | None
    base: Path | None
    """Folder with `model.safetensors` and `tokenizer.json`; None for where pip put them."""
    also: tuple[Row, ...]
    say: Callable[[str], None]
    encoder: Path | None = None
    """Folder of a trained encoder, where none is to be trained."""


def train(run: Run) -> dict[str, Any]:
    """Do what is left to do; gives the report, which is kept as `report.json`.

    Raises:
        ConfigError: The directory holds another run, the base model is not the one expected, or corpora are missing.
        MissingExtra: PyTorch or another library of training is not installed.
    """
    rows, digest = _rows("train", run.corpora)
    weights, words = base_files(run.base)
    description = {"plan": msgspec.to_builtins(run.plan), "train": digest, "also": len(run.also), "base": BASE_SHA256}
    # The directory of a run holds what these were, too: with others it is another run.
    if run.also:
        description["also_sha256"] = hashlib.sha256(msgspec.json.encode(run.also)).hexdigest()
    if run.encoder is not None:
        description["encoder"] = _given(run.encoder)
    _ready(run)
    _claim(run.work, description)
    if run.encoder is not None:
        _take(run.encoder, run.work)
    pool = _pool(run, rows)
    parts = [(_share(name), samples) for name, samples in pool.items()]
    _encoder(run, parts, weights, words)
    encoder = Encoder(run.work)
    fast_parts = [(share, [each for each in part if each.source not in TRAFFIC]) for share, part in parts]
    windows = lessons(fast_parts, run.plan.fast.windows, run.plan.fast.seed)
    opinions = _opinions(run, encoder, windows)
    fast = _fast(run, windows, opinions, words, weights)
    run.say("judging held-out sources")
    held, held_digest = _rows("dev/ood", run.corpora)
    settled = settle(fast, encoder, held, rows, run.plan)
    report = {
        **description,
        "dev": held_digest,
        "dev_ood": settled.figures,
        "texts": {name: len(samples) for name, samples in pool.items()},
        "traffic": settled.traffic,
        "machine": machine(),
        "versions": versions(),
    }
    _write(run.work / "encoder.json", msgspec.json.format(msgspec.json.encode(settled.encoder)) + b"\n")
    _write(run.work / "fast.npz", encode_fast(settled.fast))
    _write(run.work / "points.json", msgspec.json.format(msgspec.json.encode(settled.points)) + b"\n")
    report["sizes"] = {name: (run.work / name).stat().st_size for name in (*_ENCODER, "fast.npz", "points.json")}
    _write(run.work / "report.json", msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    _write(run.work / "MODELS.md", sheet(report).encode())
    return report


def _share(part: str) -> float:
    return PARTS.get(part, _ALSO)


def _rows(name: str, corpora: Path | None) -> tuple[list[Row], str]:
    suite = Suite.find(name, corpora)
    return [row for row in suite.rows() if not isinstance(row, Rejected)], digest_of(suite.digests())


def _claim(work: Path, description: dict[str, Any]) -> None:
    """Take a directory for this run, or go on in it."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "run.json"
    data = msgspec.json.format(msgspec.json.encode(description, order="sorted"))
    if path.exists() and path.read_bytes() != data:
        raise ConfigError(
            f"{work} holds a run with another plan, other corpora or another encoder", hint="choose a new directory"
        )
    _write(path, data)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: what is there counts as made."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(data)
    draft.replace(path)


def _ready(run: Run) -> None:
    """Whether what is left to do can be done: better said now than after hours."""
    has_encoder = run.encoder is not None or (run.work / _ENCODER[-1]).exists()
    if has_encoder and (run.work / "fast.npz").exists():
        return
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise missing("training", ImportError(name=name), "train")


def _given(folder: Path) -> str:
    """SHA-256 of an encoder that is trained already."""
    for name in _ENCODER:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}", hint="name the directory of an earlier `lab train`")
    return hashlib.sha256((folder / _ENCODER[-1]).read_bytes()).hexdigest()


def _take(folder: Path, work: Path) -> None:
    for name in _ENCODER:
        if not (work / name).exists():
            _write(work / name, (folder / name).read_bytes())


def _pool(run: Run, rows: Sequence[Row]) -> Pool:
    path = run.work / "pool.parquet"
    if not path.exists():
        run.say("putting texts together")
        write_pool(assemble(rows, run.plan.pool), path)
    pool = read_pool(path)
    if run.also:
        pool["also"] = [
            Sample(each.text, each.label.value, each.surface.value, each.language, each.source, each.group, 1.0)
            for each in run.also
        ]
    return pool


def _encoder(run: Run, parts: Sequence[tuple[float, Sequence[Sample]]], weights: Path, words: Path) -> None:
    model = run.work / "encoder.onnx"
    if model.exists():
        return
    try:
        from shieldwall.lab.onnx_graph import build, quantised
        from shieldwall.lab.teach_encoder import EncoderTeacher
    except ImportError as error:
        raise missing("training", error, "train") from None
    teacher = EncoderTeacher(read_tokenizer(words), weights, run.plan.encoder, parts)
    checkpoint = run.work / "encoder.ckpt"
    if checkpoint.exists():
        teacher.resume(checkpoint)
    teacher.train(checkpoint, run.say)
    network = teacher.averaged()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    (run.work / "tokenizer.json").write_bytes(words.read_bytes())
    (run.work / "encoder.json").write_bytes(msgspec.json.encode(EncoderHeader()))
    _write(model, quantised(build(state, network.heads)))


def _opinions(run: Run, encoder: Encoder, windows: Sequence[Lesson]) -> np.ndarray:
    path = run.work / "opinions.npy"
    if path.exists():
        found: np.ndarray = np.load(path, allow_pickle=False)
        if len(found) == len(windows):
            return found
    found = ask(encoder, windows, run.say)
    data = io.BytesIO()
    np.save(data, found, allow_pickle=False)
    _write(path, data.getvalue())
    return found


def _fast(run: Run, windows: Sequence[Lesson], opinions: np.ndarray, words: Path, weights: Path) -> FastWeights:
    path = run.work / "fast.npz"
    if path.exists():
        run.say("the fast tier is there")
        return decode_fast(path.read_bytes(), path.name)
    try:
        from shieldwall.lab.teach_fast import teach_fast
    except ImportError as error:
        raise missing("training", error, "train") from None
    made = teach_fast(run.plan.fast, windows, opinions, read_tokenizer(words), weights, run.say)
    _write(path, encode_fast(made))
    return made
