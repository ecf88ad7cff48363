# SPDX-License-Identifier: Apache-2.0
"""What a rule set asks for on one surface: which rules apply, and at which words text is held back.

An anchor that stands in the text is found by the matcher. This module answers the other question, at every piece of
a stream: does the text that has arrived end in the beginning of an anchor? A set of all proper beginnings, words
separated by one space, answers it with a few look-ups, as an anchor has at most four words.
"""

from shieldwall.core.event import Surface
from shieldwall.detect.program import CLASSES, Program

__all__ = ["Scope", "incomplete"]

_WORDS_MAX = 4
_SEPARATORS_MAX = 3
_SHIELD = bytes(
    byte if CLASSES[byte] in b"a0" else ord(" ") if byte < 128 and byte not in b"\0.!?" else 0 for byte in range(256)
)
"""Letters and digits as they are, separators to a space, whatever no anchor goes across to NUL."""


class Scope:
    """A rule set on one surface."""

    __slots__ = ("_ends", "_prefixes", "_reach", "applies", "holds", "surface")

    def __init__(self, program: Program, surface: Surface) -> None:
        self.surface = surface
        self.applies = tuple(surface in rule.surfaces for rule in program.rules)
        """For each rule, whether it applies."""
        anchors = [anchor for anchor in program.anchors if self.applies[anchor.rule]]
        self.holds = bool(anchors)
        """Whether any rule that applies holds text back."""
        prefixes: set[bytes] = set()
        for anchor in anchors:
            prefixes.update(anchor.text[:size] for size in range(1, len(anchor.text) + (not anchor.stem)))
        self._prefixes = frozenset(prefixes)
        self._ends = frozenset(words[-1] for prefix in prefixes if (words := prefix.split()))
        self._reach = max((len(anchor.text) + _SEPARATORS_MAX * _WORDS_MAX for anchor in anchors), default=0) + 2

    def begun(self, tail: bytes) -> int:
        """How many bytes at the end of a text begin an anchor that is not yet complete, 0 for none.

        Args:
            tail: The last bytes of the text in skeleton letters; NUL stands before the first.
        """
        text = tail[-self._reach :].translate(_SHIELD)
        _, cut, text = text.rpartition(b"\0")
        words = text.split()
        if not words or words[-1] not in self._ends:
            return 0
        begins, size = b" " if text[-1:] == b" " else b"", 0
        for count in range(1, min(len(words), _WORDS_MAX) + 1):
            begins = words[-count] + (b" " + begins if count > 1 else begins)
            if begins in self._prefixes:
                size = count
        if not size:
            return 0
        start = len(text)
        for word in reversed(words[-size:]):
            start = text.rindex(word, 0, start)
        # The first word may have lost its beginning where the tail was cut.
        return len(text) - start if start or cut else 0


def incomplete(last: bytes) -> int:
    """How many bytes at the end are the beginning of a UTF-8 character that is not yet complete, 0 to 3.

    Args:
        last: The last three bytes that arrived, or more.
    """
    for size, byte in enumerate(reversed(last[-3:]), 1):
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return size if size < need else 0
        if byte < 0x80:
            return 0
    return 0
