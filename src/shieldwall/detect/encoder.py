# SPDX-License-Identifier: Apache-2.0
"""The dear tier: a small transformer that is asked where the fast tier is in doubt, some milliseconds per window.

It comes as a folder: `encoder.onnx`, `tokenizer.json` and `encoder.json`. The packaged one is ours; any sequence
classifier in the layout of Hugging Face (`model.onnx`, `tokenizer.json`, `config.json` with `id2label`) is read, too,
for example Prompt Guard 2 or PIGuard exported to ONNX.

onnxruntime and tokenizers are imported when an encoder is made: `ml` is an extra.
"""

import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from shieldwall.core.errors import ConfigError, MissingExtra
from shieldwall.detect.classes import CLASSES
from shieldwall.detect.encoder_tokens import CLS, PAD, SEP, WINDOW, surface_token, window_starts
from shieldwall.detect.odds import log_sum, sigmoid

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CLASSES", "Encoder", "EncoderHeader", "Opinion"]

_UNKNOWN_SHARE: Final = 0.2
"""Of the word pieces: above, the vocabulary does not know the language and the encoder says nothing."""
_ODD: Final = "a \u16a0\u16a2 \ue000 \U0001f9ff zqxj"
_UNKNOWN_NAMES: Final = ("[UNK]", "<unk>")
_MAX_WINDOWS: Final = 64
"""Windows read of one text, about 4,000 words; a cascade asks about a few."""
_LEAST_WINDOW: Final = 8
_MAX_FILE: Final = 1 << 30
_HINT: Final = "name a folder with model.onnx, tokenizer.json and config.json (a sequence classifier)"
_SLOW: Final = ["SkipLayerNormFusion"]
"""On onnxruntime 1.32 the joined operator takes six times as long as an addition and a normalisation."""
_BENIGN_WORDS: Final = frozenset({"benign", "safe", "legit", "legitimate", "label_0", "negative", "normal", "0"})


class EncoderHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in `encoder.json`."""

    classes: tuple[str, ...] = CLASSES
    """Class of each output, names of `CLASSES`."""
    slope: float = 1.0
    """Calibration: the logit of attack is `slope * raw + offset`."""
    offset: float = 0.0
    harm_slope: float = 1.0
    """The same for harmful against all else."""
    harm_offset: float = 0.0
    marks: bool = True
    """Whether a window begins with the mark of its surface; else the tokenizer's own marks are used."""
    window: int = WINDOW
    version: str = ""

    def __post_init__(self) -> None:
        named = set(self.classes)
        if not named <= set(CLASSES) or "benign" not in named or not named - {"benign", "harmful"}:
            raise ValueError(f"classes are of {', '.join(CLASSES)}: benign, and at least one kind of attack")
        if not _LEAST_WINDOW <= self.window <= 8192:
            raise ValueError(f"a window has {_LEAST_WINDOW} to 8192 pieces")
        numbers = (self.slope, self.offset, self.harm_slope, self.harm_offset)
        if not all(map(math.isfinite, numbers)) or not self.slope or not self.harm_slope:
            raise ValueError("slopes and offsets are finite numbers, and no slope is zero")


class Opinion(NamedTuple):
    """What an encoder says of a text."""

    score: float
    """Calibrated probability that the text carries injection, jailbreak or extraction."""
    logit: float
    """Its logit."""
    harm: float
    """Calibrated probability that it is harmful in itself."""
    category: str
    """The likeliest of the attack classes."""
    span: tuple[int, int]
    """The window that decides: half-open range of code points."""
    windows: int
    """How many were read."""


class _Window(NamedTuple):
    ids: list[int]
    span: tuple[int, int]


class Encoder:
    """Judges texts. Immutable after loading; safe to share between threads, each judges on the core it runs on."""

    def __init__(self, folder: Path | None = None) -> None:
        """Load a model and its tokenizer.

        Args:
            folder: Where they lie; None for the packaged ones.

        Raises:
            MissingExtra: onnxruntime or tokenizers is not installed.
            ConfigError: The folder holds no sequence classifier, a file of it is damaged, or an installed library does
                not work here.
        """
        try:
            import numpy as np
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise _unusable(error) from None
        self._np = np
        model, words, self.header = _packaged() if folder is None else _read(folder)
        options = onnxruntime.SessionOptions()
        # One text, one core: what waits behind it uses the others. Memory is given back, not kept for the longest.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_SLOW,
                # What it falls back on is the same again, and it prints.
                enable_fallback=0,
            )
            self._inputs = [each.name for each in self._session.get_inputs()]
        except Exception as error:  # noqa: BLE001  the binding raises classes that share no other base
            raise ConfigError(f"the encoder's model cannot be loaded ({type(error).__name__})", hint=_HINT) from None
        try:
            self._tokenizer: Any = Tokenizer.from_buffer(words)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._marks = self._own_marks()
            # One that has no mark for what it does not know raises at the first such word.
            self._tokenizer.encode(_ODD)
        except BaseException as error:
            # Its errors are plain `Exception`, and a panic in its Rust is not even that, nor can its class be imported.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ConfigError("the encoder's tokenizer.json cannot be read", hint=_HINT) from None
        known = (self._tokenizer.token_to_id(name) for name in _UNKNOWN_NAMES)
        self._unknown = next((each for each in known if each is not None), None)
        self._check_outputs()
        self.version = self.header.version or hashlib.sha256(model).hexdigest()[:12]

    def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
        """Judge a text in windows.

        Args:
            text: Folded, as `core.text` gives it.
            surface: Where it stands.

        Returns:
            None where too many words are unknown to the vocabulary, or where the model gives no number: then this
            encoder has no opinion.
        """
        windows = self._windows(text, surface)
        if windows is None:
            return None
        raw = [self._run([window.ids])[0] for window in windows]
        if not all(bool(self._np.isfinite(row).all()) for row in raw):
            # Nothing is greater than what is no number: it would pass for harmless.
            return None
        best, harm = -math.inf, -math.inf
        place = 0
        for number, row in enumerate(raw):
            attack, harmful = self._attack(row), self._harm(row)
            harm = max(harm, harmful)
            if attack > best:
                best, place = attack, number
        header = self.header
        logit = header.slope * best + header.offset
        return Opinion(
            sigmoid(logit),
            logit,
            sigmoid(header.harm_slope * harm + header.harm_offset),
            self._category(raw[place]),
            windows[place].span,
            len(windows),
        )

    def pieces(self, text: str) -> list[int]:
        """Word pieces of a text, without marks."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def raw_opinion(self, text: str, surface: str) -> tuple[float, float]:
        """Greatest logits of attack and of harmful over all windows, before calibration, whatever the language."""
        rows = [self._run([window.ids])[0] for window in self._windows(text, surface, strict=False) or ()]
        return max(map(self._attack, rows)), max(map(self._harm, rows))

    def raw(self, texts: Sequence[str], surfaces: Sequence[str]) -> "np.ndarray":
        """Outputs for the first window of each text, float32 (texts, classes): for training and calibration."""
        coded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = []
        for code, surface in zip(coded, surfaces, strict=True):
            before, after = self._around(surface)
            rows.append([*before, *code.ids[: self.header.window - len(before) - len(after)], *after])
        return self._run(rows)

    def _windows(self, text: str, surface: str, *, strict: bool = True) -> list[_Window] | None:
        coded = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = coded.ids, coded.offsets
        if strict and ids and self._unknown is not None and ids.count(self._unknown) > _UNKNOWN_SHARE * len(ids):
            return None
        before, after = self._around(surface)
        room = self.header.window - len(before) - len(after)
        windows = []
        for start in window_starts(len(ids), room)[:_MAX_WINDOWS]:
            end = min(len(ids), start + room)
            span = (offsets[start][0], offsets[end - 1][1]) if end > start else (0, len(text))
            windows.append(_Window([*before, *ids[start:end], *after], span))
        return windows

    def _around(self, surface: str) -> tuple[list[int], list[int]]:
        return ([CLS, surface_token(surface)], [SEP]) if self.header.marks else self._marks

    def _run(self, texts: Sequence[Sequence[int]]) -> "np.ndarray":
        np = self._np
        width = max(len(ids) for ids in texts)
        ids = np.full((len(texts), width), PAD, np.int64)
        attention = np.zeros((len(texts), width), np.int64)
        for row, each in enumerate(texts):
            ids[row, : len(each)] = each
            attention[row, : len(each)] = 1
        feeds = {}
        for name in self._inputs:
            if "mask" in name or name == "attention":
                feeds[name] = attention
            elif "type" in name:
                feeds[name] = np.zeros_like(ids)
            else:
                feeds[name] = ids
        return self._session.run(None, feeds)[0]  # type: ignore[no-any-return]

    def _attack(self, row: "np.ndarray") -> float:
        """Logit of attack against all else."""
        classes = self.header.classes
        attack = [float(value) for name, value in zip(classes, row, strict=True) if name not in {"benign", "harmful"}]
        rest = [float(value) for name, value in zip(classes, row, strict=True) if name in {"benign", "harmful"}]
        return log_sum(attack) - log_sum(rest)

    def _harm(self, row: "np.ndarray") -> float:
        classes = self.header.classes
        if "harmful" not in classes:
            return -math.inf
        harm = float(row[classes.index("harmful")])
        return harm - log_sum([float(value) for name, value in zip(classes, row, strict=True) if name != "harmful"])

    def _category(self, row: "np.ndarray") -> str:
        pairs = zip(row, self.header.classes, strict=True)
        return max((float(value), name) for value, name in pairs if name not in {"benign", "harmful"})[1]

    def _own_marks(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself puts before and after a text."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        marked = self._tokenizer.encode("a", add_special_tokens=True).ids
        for at in range(len(marked) - len(plain) + 1):
            if marked[at : at + len(plain)] == plain:
                return marked[:at], marked[at + len(plain) :]
        return [], []

    def _check_outputs(self) -> None:
        """One full window through the model: what does not fit shows now, not at the first attack."""
        before, after = self._around("prompt")
        room = self.header.window - len(before) - len(after)
        last = max(self._tokenizer.get_vocab().values(), default=0)
        try:
            given = self._run([[*before, *[last] * room, *after]])
            shape, finite = given.shape, bool(self._np.isfinite(given).all())
        except Exception as error:  # noqa: BLE001  as above
            raise ConfigError(
                f"the encoder's model does not take {self.header.window} pieces of its tokenizer's vocabulary "
                f"({type(error).__name__})",
                hint=_HINT,
            ) from None
        if shape != (1, len(self.header.classes)):
            raise ConfigError(
                f"the encoder's model gives {shape}, its description names {len(self.header.classes)} classes",
                hint=_HINT,
            )
        if not finite or room < 1:
            raise ConfigError("the encoder's model gives no numbers for a window of text", hint=_HINT)


def _unusable(error: ImportError) -> ConfigError | MissingExtra:
    """What is not installed is one thing, what is and does not work another: only the first may be done without."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("numpy", "onnxruntime", "tokenizers"):
        return MissingExtra("the encoder needs onnxruntime and tokenizers", hint="pip install 'shieldwall[ml]'")
    return ConfigError(
        f"onnxruntime and tokenizers are installed but cannot be used ({type(error).__name__}: {error})",
        hint="install 'shieldwall[ml]' anew",
    )


def _packaged() -> tuple[bytes, bytes, EncoderHeader]:
    data = resources.files("shieldwall.detect").joinpath("data")
    try:
        parts = [data.joinpath(name).read_bytes() for name in ("encoder.onnx", "tokenizer.json", "encoder.json")]
    except OSError as error:
        raise ConfigError(
            f"the packaged encoder cannot be read: {error.strerror}", hint="install the package anew"
        ) from None
    return parts[0], parts[1], _header(parts[2], "the packaged encoder")


def _header(data: bytes, name: str) -> EncoderHeader:
    try:
        return msgspec.json.decode(data, type=EncoderHeader)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"the description of {name} is not what it should be: {error}", hint=_HINT) from None


def _read(folder: Path) -> tuple[bytes, bytes, EncoderHeader]:
    model = next((path for name in _MODELS if (path := folder / name).is_file()), None)
    if model is None:
        raise ConfigError(f"{folder} holds no ONNX model", hint=_HINT)
    header = folder / "encoder.json"
    try:
        words = (folder / "tokenizer.json").read_bytes()
        if model.stat().st_size > _MAX_FILE:
            raise ConfigError(f"{model.name} is larger than 1 GiB", hint=_HINT)
        data = model.read_bytes()
        if header.is_file():
            return data, words, _header(header.read_bytes(), str(folder))
        return data, words, _foreign((folder / "config.json").read_bytes(), str(folder))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}", hint=_HINT) from None


_MODELS: Final = ("encoder.onnx", "model.onnx", "onnx/model.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx")


class _HuggingFace(msgspec.Struct):
    id2label: dict[str, str]
    max_position_embeddings: int = 512


def _foreign(config: bytes, name: str) -> EncoderHeader:
    """A description for someone else's classifier: labels that are called benign are no attack, all others are."""
    try:
        read = msgspec.json.decode(config, type=_HuggingFace)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"config.json of {name} is not what it should be: {error}", hint=_HINT) from None
    names = [read.id2label[key].lower() for key in sorted(read.id2label, key=lambda key: (len(key), key))]
    classes = tuple(name if name in CLASSES else "benign" if name in _BENIGN_WORDS else "injection" for name in names)
    if "benign" not in classes or not set(classes) - {"benign", "harmful"}:
        raise ConfigError(
            "config.json names no benign class among its labels, or no other",
            hint="its id2label must call one label benign or safe, and another by a name of an attack",
        )
    if read.max_position_embeddings < _LEAST_WINDOW:
        raise ConfigError(f"config.json of {name} allows fewer than {_LEAST_WINDOW} pieces", hint=_HINT)
    return EncoderHeader(classes=classes, marks=False, window=min(512, read.max_position_embeddings))
