# SPDX-License-Identifier: Apache-2.0
"""The fast tier: a small convolution over words, some ten microseconds per kilobyte.

It judges windows of 48 words at fixed places, half of each in the next, so that a needle in a long page is not diluted,
and says of each how probable it is that it carries an attack, and of which class. What a window says depends on nothing
outside it.

Words begin as the pre-trained vectors of the encoder's vocabulary, reduced; what the encoder says of many texts is what
the tier learns, beside the labels. `docs/models.md` says how, and how well.
"""

import hashlib
import math
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shieldwall.core.errors import ConfigError
from shieldwall.detect.classes import CLASSES
from shieldwall.detect.encoder_tokens import surface_token
from shieldwall.detect.fast_file import BLOCK, FastWeights, decode
from shieldwall.detect.fast_words import Spans, Vocabulary, kernels
from shieldwall.detect.odds import logit, sigmoid

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CLASSES", "Batch", "FastTier", "Judged"]

_GREATEST = 120
"""Steps of the table that the largest weight of a filter gets: a sum of ten fits 16 bits many times over."""
_GREATEST_BIAS = 31_500
"""Steps, so that a bias and ten weights fit 16 bits, too."""


class Batch(NamedTuple):
    """What the tier says of the windows of a text, or of a part of it."""

    attacks: list[float]
    """Logit of attack against all else, before calibration."""
    harms: list[float]
    """Logit of harmful against all else."""
    kinds: list[int]
    """The likeliest class of attack, index into `CLASSES`."""
    spans: "Spans"
    used: int
    """Bytes of which nothing later has need."""


class Judged(NamedTuple):
    """What the tier says of a whole text."""

    score: float
    """Calibrated probability that it carries injection, jailbreak or extraction: that of its worst window."""
    harm: float
    """Calibrated probability that it is harmful in itself."""
    category: str
    """The likeliest class of attack."""
    span: tuple[int, int]
    """The window that decides, bytes of the folded text."""


class FastTier:
    """Judges texts. Immutable after loading; each thread that uses it gets working memory of its own."""

    def __init__(self, source: Path | FastWeights | None = None) -> None:
        """Load weights.

        Args:
            source: A weight file, or weights at hand; None for the packaged ones.

        Raises:
            MissingExtra: numpy or numba is not installed. ConfigError: The file is no weight file.
        """
        # First, so that what is missing is told as missing, not as a file that cannot be read.
        self._kernels = kernels()
        weights, self.version = _load(source)
        self.vocabulary = Vocabulary(weights.words)
        if len(weights.rows) != self.vocabulary.row_count:
            raise ConfigError("the weights of the fast tier do not fit its vocabulary")
        import numpy as np

        self._np = np
        self.header = weights.header
        self._table, self._scale = _table(weights)
        bias = np.clip(weights.filter_bias / self._scale, -_GREATEST_BIAS, _GREATEST_BIAS)
        self._bias = np.rint(bias).astype(np.int16)
        self._hidden, self._surfaces = np.ascontiguousarray(weights.hidden), weights.surfaces
        self._last, self._last_bias = np.ascontiguousarray(weights.last), weights.last_bias
        self._desk = threading.local()

    def judge(self, folded: bytes, surface: str = "prompt") -> Judged:
        """Judge a whole text.

        Args:
            folded: UTF-8 as `core.text` gives it.
            surface: Where it stands.
        """
        attacks, harms, kinds, spans, _ = self.windows(folded, surface)
        worst = max(range(len(attacks)), key=attacks.__getitem__)
        return Judged(self.attack(attacks[worst]), self.harm(max(harms)), CLASSES[kinds[worst]], spans[worst])

    def attack(self, raw: float) -> float:
        """Calibrated probability of attack for what `windows` gave."""
        return sigmoid(self.header.slope * raw + self.header.offset)

    def harm(self, raw: float) -> float:
        """The same for harmful."""
        return sigmoid(self.header.harm_slope * raw + self.header.harm_offset)

    def harm_logit(self, probability: float) -> float:
        """What `windows` must give at least for this calibrated probability of harmful."""
        header = self.header
        # Weights that learnt nothing of harm may rank it upside down: then no logit says harmful.
        return (logit(probability) - header.harm_offset) / header.harm_slope if header.harm_slope > 0 else math.inf

    def windows(self, folded: bytes, surface: str, *, first: bool = True, last: bool = True) -> Batch:
        """Judge the windows of a text, or those that are full so far.

        Args:
            folded: UTF-8 as `core.text` gives it.
            surface: Where it stands.
            first: Whether the text begins here; else these are its bytes from where the last call's `used` ends.
            last: Whether the text ends here; else its last word is not read yet, it may go on.
        """
        compiled = self._kernels
        step, edge = BLOCK, compiled.EDGE
        rows, more, starts, ends, _ = self.vocabulary.read(folded)
        count = len(starts)
        if not last:
            count = max(0, count - 1)
        front = edge if first else 0
        size = front + count + (edge if last else 0)
        full = size if last else step * (size // step)
        if not last and full < 2 * step:
            return Batch([], [], [], Spans(starts, ends, 0, len(folded)), 0)
        begin = edge - front
        responses, inner, across, out = self._room(full)
        blocks = compiled.pools(rows[begin:], more[begin:], full, self._table, self._bias, responses, inner, across)
        bias = self._surfaces[surface_token(surface)]
        windows = compiled.scores(
            inner, across, blocks, full, self._scale, self._hidden, bias, self._last, self._last_bias, out
        )
        spans = Spans(starts[:count], ends[:count], front, len(folded))
        used = len(folded) if last else int(starts[windows * step - front])
        attacks, harms, kinds = out[:windows].T.tolist()
        return Batch(attacks, harms, [int(kind) for kind in kinds], spans, used)

    def _room(self, size: int) -> "tuple[np.ndarray, ...]":
        """Working memory of this thread, grown where it must be."""
        np, desk = self._np, self._desk
        if getattr(desk, "size", -1) < size:
            desk.size = max(1024, 2 * size)
            filters, blocks = len(self._bias), desk.size // BLOCK + 2
            desk.room = (
                np.empty((desk.size, filters), np.int16),
                np.empty((blocks, 2, filters), np.int32),
                np.empty((blocks, 2, filters), np.int32),
                np.empty((blocks, 3), np.float32),
            )
        return desk.room  # type: ignore[no-any-return]


def _load(source: Path | FastWeights | None) -> tuple[FastWeights, str]:
    if isinstance(source, FastWeights):
        return source, source.header.version or "unsaved"
    file = resources.files("shieldwall.detect").joinpath("data/fast.npz") if source is None else source
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the weights of the fast tier cannot be read: {error.strerror}") from None
    return decode(data, "fast.npz" if source is None else source.name), hashlib.sha256(data).hexdigest()[:12]


def _table(weights: FastWeights) -> "tuple[np.ndarray, np.ndarray]":
    """What each row adds to each response, in whole steps, int8 (rows, span, filters), and what a step is worth."""
    import numpy as np

    span, _, count = weights.filters.shape
    rows = weights.rows.astype(np.float32) * weights.steps[:, None]
    table = np.empty((len(rows), span, count), np.int8)
    greatest = np.full(count, 1e-12, np.float32)
    for place in range(span):
        greatest = np.maximum(greatest, np.abs(rows @ weights.filters[place]).max(axis=0))
    scale = (greatest / _GREATEST).astype(np.float32)
    for place in range(span):
        table[:, place] = np.rint(rows @ (weights.filters[place] / scale))
    return table, scale
