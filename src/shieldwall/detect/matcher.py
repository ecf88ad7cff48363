# SPDX-License-Identifier: Apache-2.0
"""Searches many patterns in one text at once: which of them occur, and where.

Two implementations stand behind the seam, `hyperscan_matcher` and `re2_matcher`, and give the same answers. What counts
as a hit is defined here, once, so that it depends neither on the engine nor on how a text arrives in pieces:

- A pattern's hits are taken by **earliest end**: the smallest end of any match that starts at or after a given place,
  and of the matches with that end the leftmost start. The next hit starts where the one before ended; they may share a
  border byte.
- The patterns hold no look-ahead, so a hit is final as soon as its last byte is there, whatever follows.

Finding out *which* patterns occur is the hot path; *where* is asked on a hit only, of RE2, in linear time.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import re2

from shieldwall.detect.phrase import Compiled

__all__ = ["Hit", "Locator", "Matcher", "scan"]

_LOCATOR_MEMORY = 4 << 20
"""Bytes of automaton one pattern may cache in RE2 before it starts over; the patterns need some 50 KiB."""


class Hit(NamedTuple):
    """One occurrence of one pattern."""

    pattern: int
    """Place of the pattern in the list the matcher was built from."""
    start: int
    """Byte offset of the first byte, border byte included."""
    end: int
    """Byte offset behind the last byte, border byte included."""


class Matcher(Protocol):
    """A fixed list of patterns. Safe to use from several threads."""

    def __init__(self, patterns: Sequence[Compiled]) -> None:
        """Compile. Raises RuleError when the engine refuses a pattern."""

    def which(self, data: bytes) -> Sequence[int]:
        """Indexes of the patterns that occur in the data, ascending. The data are skeleton bytes (see `phrase`)."""

    def first(self, index: int, data: bytes, start: int = 0) -> Hit | None:
        """Of the matches of one pattern that start at or after `start`, the one that ends first."""


class Locator:
    """Finds where a pattern occurs. Patterns are compiled when first asked for: most never are."""

    def __init__(self, patterns: Sequence[Compiled]) -> None:
        self._sources = [pattern.regex.encode() for pattern in patterns]
        self._patterns: list[re2._Regexp | None] = [None] * len(patterns)
        self._options = latin1_options(_LOCATOR_MEMORY)

    def occurs(self, index: int, data: bytes) -> bool:
        """Whether the pattern occurs at all."""
        return self._pattern(index).search(data) is not None

    def first(self, index: int, data: bytes, start: int = 0) -> Hit | None:
        """See `Matcher.first`."""
        pattern = self._pattern(index)
        match = pattern.search(data, start)
        if match is None:
            return None
        # Whether some match ends at or before a place grows with the place, as nothing looks ahead: bisect the first
        # such place. No match starts before this leftmost one, so the search is as narrow as the pattern.
        left, low, high = match.start(), match.start(), match.end()
        while low < high:
            middle = (low + high) // 2
            if pattern.search(data, left, middle) is None:
                low = middle + 1
            else:
                high = middle
        match = pattern.search(data, left, high) or match
        return Hit(index, match.start(), match.end())

    def _pattern(self, index: int) -> "re2._Regexp":
        pattern = self._patterns[index]
        if pattern is None:
            pattern = self._patterns[index] = re2.compile(self._sources[index], self._options)
        return pattern


def latin1_options(memory: int) -> "re2.Options":
    """RE2 options under which a pattern speaks about bytes."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = memory
    options.log_errors = False
    options.never_capture = True
    return options


def scan(matcher: Matcher, data: bytes) -> list[Hit]:
    """Every hit in a text, ordered by end, then by pattern."""
    hits = []
    for index in matcher.which(data):
        hit = matcher.first(index, data)
        while hit is not None:
            hits.append(hit)
            # The border after one hit may be the border before the next.
            hit = matcher.first(index, data, max(hit.start + 1, hit.end - 1))
    return sorted(hits, key=lambda hit: (hit.end, hit.pattern))
