# SPDX-License-Identifier: Apache-2.0
"""From a text to rows of the fast tier's table: its vocabulary, and working memory that is kept between texts."""

import threading
from typing import TYPE_CHECKING

from shieldwall.core.errors import ConfigError, MissingExtra
from shieldwall.detect.fast_file import BLOCK

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

__all__ = ["Spans", "Vocabulary", "kernels"]


def kernels() -> "ModuleType":
    """The compiled part.

    Raises:
        MissingExtra: numpy or numba is not installed. ConfigError: They are, but do not work here.
    """
    try:
        from shieldwall.detect import fast_kernels
    except ModuleNotFoundError as error:
        if error.name in ("numpy", "numba"):
            raise MissingExtra("the fast tier needs numpy and numba", hint="pip install 'shieldwall[ml]'") from None
        raise _broken(error) from None
    except (ImportError, RuntimeError) as error:
        # Two versions that do not fit; or numba finds no folder in which it may keep what it compiled.
        raise _broken(error) from None
    return fast_kernels


def _broken(error: Exception) -> ConfigError:
    return ConfigError(
        f"numpy and numba are installed but cannot be used ({type(error).__name__}: {error})",
        hint="install 'shieldwall[ml]' anew, or name a writable folder in NUMBA_CACHE_DIR",
    )


class Vocabulary:
    """Known words, by hash. Immutable; each thread that uses it gets working memory of its own."""

    def __init__(self, words: "np.ndarray") -> None:
        """Make the table.

        Args:
            words: Hashes of the known words, uint32, (words,); the first has row `first_row`.

        Raises:
            MissingExtra: numpy or numba is not installed.
        """
        import numpy as np

        self._np, self._kernels = np, kernels()
        self.words = words
        self._keys, self._known = self._kernels.index(words, self.first_row)
        self._desk = threading.local()

    @property
    def first_row(self) -> int:
        """Row of the first known word; before it stand those that are no words."""
        return int(self._kernels.FIXED + 2 * self._kernels.PIECES)

    @property
    def row_count(self) -> int:
        """Rows in all."""
        return self.first_row + len(self.words)

    def read(self, folded: bytes) -> "tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]":
        """Words of a text.

        Args:
            folded: UTF-8 as `core.text` gives it; case matters only where a whole word is in capitals.

        Returns:
            First and second rows, int32, with empty words around; start and end of each word in bytes, int32, without
            these; hashes of the words, uint32. All are views of memory that the next call of this thread uses again.
        """
        np, kernels = self._np, self._kernels
        size = len(folded)
        hashes, starts, ends, capitals, first, second = self._room(size)
        data = np.frombuffer(folded, np.uint8)
        count = kernels.words(data, kernels.KINDS, hashes, starts, ends, capitals)
        kernels.rows(data, kernels.KINDS, count, hashes, starts, ends, capitals, self._keys, self._known, first, second)
        total = count + 2 * kernels.EDGE
        return first[:total], second[:total], starts[:count], ends[:count], hashes[:count]

    def windows(self, folded: bytes) -> list[tuple[int, int]]:
        """Windows of a text, in bytes from the first word of each to the end of its last; of no words, all of it."""
        _, _, starts, ends, _ = self.read(folded)
        edge = self._kernels.EDGE
        spans = Spans(starts, ends, edge, len(folded))
        return [spans[number] for number in range(max(1, -(-(len(starts) + 2 * edge) // BLOCK) - 1))]

    def _room(self, size: int) -> "tuple[np.ndarray, ...]":
        np, desk = self._np, self._desk
        if getattr(desk, "size", -1) < size:
            desk.size = max(4096, 2 * size)
            many = desk.size + 2 * self._kernels.EDGE
            kinds = (np.uint32, np.int32, np.int32, np.uint8, np.int32, np.int32)
            desk.room = tuple(np.empty(many, kind) for kind in kinds)
        return desk.room  # type: ignore[no-any-return]


class Spans:
    """Where windows lie, in bytes from the first word of each to the end of its last; worked out when asked for."""

    __slots__ = ("_ends", "_front", "_size", "_starts")

    def __init__(self, starts: "np.ndarray", ends: "np.ndarray", front: int, size: int) -> None:
        """Take the words of a text.

        Args:
            starts: Of the words, as `Vocabulary.read` gives them; used before its next call.
            ends: See above.
            front: Empty words before the first.
            size: Of the text, bytes: what a window without words spans.
        """
        self._starts, self._ends, self._front, self._size = starts, ends, front, size

    def __getitem__(self, number: int) -> tuple[int, int]:
        """Half-open range of the window of that number."""
        count = len(self._starts)
        if not count:
            return 0, self._size
        begin = number * BLOCK - self._front
        first, last = min(count - 1, max(0, begin)), min(count, max(1, begin + 2 * BLOCK)) - 1
        return int(self._starts[first]), int(self._ends[last])
