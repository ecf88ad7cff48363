# SPDX-License-Identifier: Apache-2.0
"""Known texts, found again when disguised, changed here and there or wrapped: the index behind `ports.Signatures`.

Held in memory in flat arrays of fixed size, so that it is bounded, an insert is live at once and nothing is ever
rebuilt. `signature_kernels` has the loops, `signature_file` the file.

A piece is found where enough of its values stand in one window: `SHARE` of them, and `LEAST` at least, since few values
in common say little. A piece of fewer than `LEAST_HELD` values is not taken.

Threads: kernels keep the GIL, so each look-up sees each row wholly or not at all; inserts take a lock among themselves.
"""

import hashlib
import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded, MissingExtra
from shieldwall.core.sketch import BLOCK, KEPT, PIECE, SHINGLE, Match, Meaning, Piece, Sketch, pieces
from shieldwall.detect.signature_file import Held, decode, encode, replace_file

__all__ = ["LEAST", "LEAST_HELD", "SHARE", "SignatureIndex"]

SHARE: Final = 0.28
"""Share of a piece's values that must stand in one window. Chosen on train: of texts with 30 % of the words changed
96 % keep it; 0.33 keeps 94 %, and 0.24 makes twice as many false matches."""
LEAST: Final = 12
"""Values that must stand in one window, whatever the share: two stock phrases in common give about ten."""
LEAST_HELD: Final = 24
"""Values a piece needs to be held: about eight words."""
_MOST_MATCHES: Final = 16
_MEANING_BYTES: Final = 1024
"""Longest meaning, as JSON: what a finding needs is a tenth of it."""
_LOAD: Final = 0.7
"""Greatest load of the hash table; at it a look-up meets 2.2 slots on average."""
_SPREAD: Final = 0x9E3779B97F4A7C15
"""Odd, so that the pieces of one text get different ranks."""


class SignatureIndex:
    """Implements `core.ports.Signatures`."""

    def __init__(self, key: bytes, capacity: int = 65_536) -> None:
        """Make an empty index.

        Args:
            key: `Key.id` of the key its sketches are made under.
            capacity: Pieces it can hold; at most one per 512 letters of a text. Costs 256 to 512 bytes each for the
                hash table at once, and up to 300 more when a piece comes.

        Raises:
            MissingExtra: numba is not installed.
            ConfigError: The capacity is not a number of pieces.
        """
        self._np, self._kernels = _numeric()
        if not 1 <= capacity < 1 << 26:
            raise ConfigError(f"an index holds 1 to {(1 << 26) - 1:,} pieces, not {capacity:,}")
        np = self._np
        self.key = key
        self.capacity = capacity
        slots = 1 << int(capacity * self._kernels.INDEXED / _LOAD).bit_length()
        # Memory that was never touched costs nothing: only `_slots` and `_names` are written out of order.
        self._slots = np.zeros(slots, np.uint64)
        self._names = np.zeros(1 << (2 * capacity).bit_length(), np.uint32)
        self._held = np.empty(capacity * KEPT, np.uint32)
        self._starts = np.zeros(capacity + 1, np.int64)
        self._ranks = np.empty(capacity, np.uint64)
        self._widths = np.empty(capacity, np.uint8)
        self._places = np.empty(capacity, np.uint16)
        self._owners = np.empty(capacity, np.uint32)
        self._digests = np.empty(capacity, np.uint64)
        self._meanings: list[bytes] = []
        self._rows = 0
        self._needs = np.array([max(LEAST, math.ceil(SHARE * count)) for count in range(KEPT + 1)], np.int64)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Texts held."""
        return len(self._meanings)

    @property
    def pieces(self) -> int:
        """Pieces held."""
        return self._rows

    @property
    def state_bytes(self) -> int:
        """Bytes in use: the hash tables whole, the rest as far as it is filled."""
        row = self._starts.itemsize + self._ranks.itemsize + 1 + self._places.itemsize + self._owners.itemsize
        meanings = sum(map(sys.getsizeof, self._meanings)) + 8 * len(self._meanings)
        values = int(self._starts[self._rows]) * self._held.itemsize
        return int(self._slots.nbytes + self._names.nbytes + row * self._rows + 8 * len(self) + values + meanings)

    def match(self, sketch: Sketch) -> list[Match]:
        """Known texts of which a piece stands in the sketched one, best first, at most 16.

        A sketch that came from others has no values in order; its pieces are then taken for the text.

        Raises:
            InvalidInput: The sketch was made under another key.
        """
        self._check_key(sketch)
        values = sketch.values or b"".join(piece.values for piece in sketch.pieces)
        found = self._kernels.match(
            self._np.frombuffer(values, "<u8"), self._starts, self._held, self._widths, self._slots, self._needs
        )
        if not len(found):
            return []
        best: dict[int, tuple[float, int, int]] = {}
        for row, hits, place in found.tolist():
            share = hits / int(self._starts[row + 1] - self._starts[row])
            text = int(self._owners[row])
            best[text] = max(best.get(text, (0.0, 0, 0)), (share, -place, int(self._widths[row])))
        order = sorted(best, key=lambda text: (-best[text][0], int(self._digests[text])))
        return [self._match(text, *best[text]) for text in order[:_MOST_MATCHES]]

    def _match(self, text: int, share: float, place: int, width: int) -> Match:
        meaning = msgspec.json.decode(self._meanings[text], type=Meaning)
        return Match(meaning=meaning, containment=share, window=(-place, -place + width * BLOCK + SHINGLE - 1))

    def insert(self, sketch: Sketch, meaning: Meaning) -> None:
        """Know a text from now on; the same sketch again replaces its meaning.

        Raises:
            InvalidInput: The sketch was made under another key, is not well formed, or has too little to compare.
            LimitExceeded: The index is full, or the meaning is too long.
        """
        self._check_key(sketch)
        words = msgspec.json.encode(meaning)
        if len(words) > _MEANING_BYTES:
            raise LimitExceeded(f"a meaning has at most {_MEANING_BYTES} bytes")
        parts = [piece for piece in pieces(sketch) if self._is_telling(piece)]
        if not parts:
            raise InvalidInput(
                f"the text has fewer than {LEAST_HELD} telling shingles in any part of it",
                hint="texts of fewer than about 12 words cannot be recognised by a sketch; write a rule",
            )
        digest = _digest(parts)
        with self._lock:
            known = self._kernels.find_text(self._np.uint64(digest), self._names, self._digests)
            if known >= 0:
                self._meanings[known] = words
                return
            self._add(parts, digest, words)

    def _is_telling(self, piece: Piece) -> bool:
        values = self._np.frombuffer(piece.values, "<u8") if len(piece.values) % 8 == 0 else None
        if values is None or not 1 <= len(values) <= min(KEPT, piece.places) or not 1 <= piece.places <= PIECE:
            raise InvalidInput("a piece of the sketch has no place or too many, or its values are not 8 bytes each")
        if values[0] == 0 or (values[1:] <= values[:-1]).any():
            raise InvalidInput("the values of a piece are not in ascending order")
        return len(values) >= LEAST_HELD

    def _add(self, parts: Sequence[Piece], digest: int, words: bytes) -> None:
        if self._rows + len(parts) > self.capacity:
            raise LimitExceeded(
                f"the index is full: it holds {self._rows:,} pieces of at most {self.capacity:,}",
                hint="raise the capacity of the index, or drop sketches that expired",
            )
        text, first = len(self._meanings), self._rows
        for number, piece in enumerate(parts):
            values = self._np.frombuffer(piece.values, "<u8")
            self._put(text, number, digest, values.astype(self._np.uint32), piece.places)
        self._digests[text] = digest
        self._meanings.append(words)
        self._kernels.add_text(text, self._names, self._digests)
        # Only now can a look-up come upon the rows: all that it may ask of them is in place.
        self._kernels.add_rows(first, self._rows, self._starts, self._held, self._ranks, self._slots)

    def _put(self, text: int, number: int, digest: int, values: Any, places: int) -> None:  # noqa: ANN401  numpy
        """Fill in one row."""
        row = self._rows
        start = int(self._starts[row])
        self._held[start : start + len(values)] = values
        self._starts[row + 1] = start + len(values)
        self._places[row] = places
        self._widths[row] = -(-(places + places // 4) // BLOCK) + 1
        self._owners[row] = text
        self._ranks[row] = (digest + (number + 1) * _SPREAD) % (1 << 64)
        self._rows += 1

    def _check_key(self, sketch: Sketch) -> None:
        if sketch.key != self.key:
            raise InvalidInput("the sketch was made under another key", hint="make it anew with the key of this epoch")

    def dump(self) -> bytes:
        """All that is held, as the bytes of a file."""
        np = self._np
        with self._lock:
            rows, texts = self._rows, len(self._meanings)
            held = Held(
                digests=self._digests[:texts].copy(),
                meanings=list(self._meanings),
                owners=self._owners[:rows].copy(),
                counts=np.diff(self._starts[: rows + 1]).astype(np.uint8),
                places=self._places[:rows].copy(),
                values=self._held[: int(self._starts[rows])].copy(),
            )
        return encode(self.key, held)

    def save(self, path: Path) -> None:
        """Write the index to a file: the old one or the new one is there, whatever happens.

        Raises:
            OSError: The directory or the disk refused it; the old file stays.
        """
        replace_file(path, self.dump())

    @classmethod
    def load(cls, path: Path, key: bytes, capacity: int = 65_536) -> "SignatureIndex":
        """Read what `save` wrote.

        Raises:
            InvalidInput: The file is no index, is cut or damaged, is of a newer version, or of another key.
            LimitExceeded: It holds more than the capacity.
            OSError: It cannot be read.
        """
        return cls.restore(path.read_bytes(), key, capacity)

    @classmethod
    def restore(cls, data: bytes, key: bytes, capacity: int = 65_536) -> "SignatureIndex":
        """The same from the bytes of the file, as `dump` gave them."""
        found, held = decode(data)
        if found != key:
            raise InvalidInput("the signatures were written under another key")
        if len(held.owners) > capacity:
            raise LimitExceeded(
                f"the file holds {len(held.owners):,} pieces, the index at most {capacity:,}",
                hint="raise the capacity of the index",
            )
        index = cls(key, capacity)
        index._fill(held)
        return index

    def _fill(self, held: "Held") -> None:
        np, rows, texts = self._np, len(held.owners), len(held.meanings)
        self._held[: len(held.values)] = held.values
        self._starts[1 : rows + 1] = np.cumsum(held.counts, dtype=np.int64)
        self._places[:rows] = held.places
        spans = held.places.astype(np.int64)
        self._widths[:rows] = -(-(spans + spans // 4) // BLOCK) + 1
        self._owners[:rows] = held.owners
        first = np.searchsorted(held.owners, held.owners)
        number = (np.arange(rows) - first + 1).astype(np.uint64)
        self._ranks[:rows] = held.digests[held.owners] + number * np.uint64(_SPREAD)
        self._digests[:texts] = held.digests
        for text in range(texts):
            if self._kernels.find_text(held.digests[text], self._names, self._digests) >= 0:
                raise InvalidInput("the file of signatures names a text twice")
            self._kernels.add_text(text, self._names, self._digests)
        self._meanings = held.meanings
        self._rows = rows
        self._kernels.add_rows(0, rows, self._starts, self._held, self._ranks, self._slots)


def _digest(parts: Sequence[Piece]) -> int:
    """Name of a text by its pieces, 64 bits, never zero."""
    made = hashlib.blake2b(digest_size=8)
    for piece in parts:
        made.update(len(piece.values).to_bytes(2, "little") + piece.places.to_bytes(2, "little") + piece.values)
    return int.from_bytes(made.digest(), "little") or 1


def _numeric() -> tuple[Any, Any]:
    """Numpy and the kernels; loading them takes seconds, so only an index does it."""
    try:
        import numpy as np

        from shieldwall.detect import signature_kernels
    except ImportError:
        raise MissingExtra("signatures need numba", hint="pip install 'shieldwall[ml]'") from None
    return np, signature_kernels
