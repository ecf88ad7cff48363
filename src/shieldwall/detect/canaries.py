# SPDX-License-Identifier: Apache-2.0
"""Harmless texts that no signature may hit, and the phrases that no signature may rest on; both ship as fingerprints.

A sketch is asked about before it goes live: would it fire on one of more than ten thousand harmless texts? What
`data/SKETCHES.md` says of the two files is written by the run that builds them (`lab.canaries`).
"""

from importlib import resources
from typing import Any, Final

from shieldwall.core.errors import InvalidInput, MissingExtra
from shieldwall.core.fingerprint_file import decode_canaries, decode_common
from shieldwall.core.sketch import PIECE, Key, Sketch, pieces

__all__ = ["CanarySet", "load_common"]

_SHARE: Final = 0.2
"""Share of a piece that a harmless text may not hold: below what an index asks for, as this is an estimate."""
_LEAST: Final = 3
"""Fingerprints in common below which a share means nothing."""


def load_common() -> bytes:
    """The common fingerprints that come with the package, for `core.sketcher.make_sketcher`."""
    return decode_common(_data("common.bin"))


def _data(name: str) -> bytes:
    return resources.files("shieldwall.detect").joinpath("data", name).read_bytes()


class CanarySet:
    """Implements `core.ports.Canaries`. Immutable; safe to share between threads."""

    def __init__(self, key: Key, data: bytes | None = None) -> None:
        """Put the canaries under a key.

        Args:
            key: The key of the sketches that will be asked about.
            data: A file of canaries; None for the one that comes with the package.

        Raises:
            InvalidInput: The file cannot be read.
            MissingExtra: numba is not installed.
        """
        try:
            import numpy as np

            from shieldwall.core.sketch_kernels import permuted
        except ImportError:
            raise MissingExtra("canaries need numba", hint="pip install 'shieldwall[ml]'") from None
        canaries = decode_canaries(_data("canaries.bin") if data is None else data)
        kept = np.array([len(canary.kept) // 8 for canary in canaries], np.int64)
        values = permuted(np.frombuffer(b"".join(canary.kept for canary in canaries), "<u8"), key)
        order = np.argsort(values)
        self._np = np
        self._key = key.id
        self._values = values[order]
        self._texts = np.repeat(np.arange(len(canaries), dtype=np.uint32), kept)[order]
        self._weights = np.array([canary.total for canary in canaries]) / np.maximum(kept, 1)
        """How many values of the text each kept one stands for."""

    def __len__(self) -> int:
        """Harmless texts."""
        return len(self._weights)

    def hits(self, sketch: Sketch) -> int:
        """How many harmless texts hold a piece of the sketch, estimated; an own sketch gives the better estimate.

        Raises:
            InvalidInput: The sketch was made under another key.
        """
        if sketch.key != self._key:
            raise InvalidInput("the sketch was made under another key", hint="make it anew with the key of this epoch")
        np = self._np
        found: set[int] = set()
        for part in self._parts(sketch):
            left, right = (np.searchsorted(self._values, part, side) for side in ("left", "right"))
            spans = [
                range(first, last) for first, last in zip(left.tolist(), right.tolist(), strict=True) if first < last
            ]
            texts, counts = np.unique(self._texts[[at for span in spans for at in span]], return_counts=True)
            shares = counts * self._weights[texts] / len(part)
            found.update(texts[(shares >= _SHARE) & (counts >= _LEAST)].tolist())
        return len(found)

    def _parts(self, sketch: Sketch) -> list[Any]:
        """Values of each piece: all of them where they are known."""
        np = self._np
        if not sketch.values:
            return [np.frombuffer(piece.values, "<u8") for piece in pieces(sketch)]
        values = np.frombuffer(sketch.values, "<u8")
        parts = [np.unique(part[part != 0]) for part in np.array_split(values, -(-len(values) // PIECE))]
        return [part for part in parts if len(part)]
