# SPDX-License-Identifier: Apache-2.0
"""The matcher on RE2 alone, for machines without a Hyperscan wheel.

All patterns are one automaton (`re2.Set`) that says which of them occur, in one pass and linear time.
"""

from collections.abc import Sequence

import re2

from shieldwall.core.errors import RuleError
from shieldwall.detect.matcher import Hit, Locator, latin1_options
from shieldwall.detect.phrase import Compiled

__all__ = ["Re2Matcher"]

_SET_MEMORY = 64 << 20
"""Bytes the automaton may take. RE2 refuses sets that do not fit; hundreds of patterns with gaps do in a fraction."""


class Re2Matcher:
    """See `Matcher`."""

    def __init__(self, patterns: Sequence[Compiled]) -> None:
        self._locator = Locator(patterns)
        self._set = re2.Set.SearchSet(latin1_options(_SET_MEMORY))
        for pattern in patterns:
            try:
                self._set.Add(pattern.regex.encode())
            except re2.error as error:
                raise RuleError(f"re2 cannot compile a rule: {error}") from None
        try:
            self._set.Compile()
        except re2.error:
            raise RuleError("the rules together are too large for re2") from None

    def which(self, data: bytes) -> Sequence[int]:
        """See `Matcher.which`."""
        # The binding returns None, not an empty list, when nothing matches.
        return sorted(self._set.Match(data) or ())

    def first(self, index: int, data: bytes, start: int = 0) -> Hit | None:
        """See `Matcher.first`."""
        return self._locator.first(index, data, start)
