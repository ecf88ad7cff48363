# SPDX-License-Identifier: Apache-2.0
"""A rule set compiled: which patterns to look for in which form of a text, and what a hit stands for.

One text is searched in up to three forms, each with its own short list of patterns:

- **main**: the folded text in skeleton letters: each rule as written, its rot13 form, the anchors of rules that hold.
- **leet**: the same with digits and signs read as letters; only where such a character stands, only hits that hold one.
- **spaced**: single letters with separators between them pulled together; only where three such letters stand in a row.

Measured against patterns that spell out each letter's stand-ins: those leave Hyperscan no literal to look for and cost
more to compile than all other rules together; here a text without digits or spaced letters pays next to nothing.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from shieldwall.core.text import ENCODED, LEET
from shieldwall.detect.forms import Anchor, compile_rule
from shieldwall.detect.matcher import Matcher
from shieldwall.detect.phrase import SKELETON, Compiled
from shieldwall.detect.rule import Rule

__all__ = ["CLASSES", "DELEET", "LEET_BYTES", "Program"]

_SPACED_STRIDE = 5
"""Bytes one spaced letter takes at most: itself and four separators."""


_SIGNS = "0123456789@$!"
"""Signs read as letters. The others of the table, such as brackets, stand in ordinary text at every other word."""


def _deleet_table() -> bytes:
    """Digits and signs to the skeleton letter they stand for.

    Where two letters share a sign, the first of the alphabet wins; `i` and `l` are one letter in the skeleton anyway.
    """
    table = bytearray(range(256))
    for letter in sorted(LEET, reverse=True):
        for sign in LEET[letter]:
            if sign in _SIGNS:
                table[ord(sign)] = letter.encode().translate(SKELETON)[0]
    return bytes(table)


DELEET = _deleet_table()
LEET_BYTES = bytes(byte for byte in range(256) if DELEET[byte] != byte)
CLASSES = (
    bytes(ord("a") if chr(byte).isalpha() else ord("0") if chr(byte).isdigit() else ord(" ") for byte in range(128))
    + b"x" * 128
)
"""ASCII letters to `a`, digits to `0`, the rest of ASCII to a space."""


_BLANK = r"[\x00-\x2f:-`{-\x7f]"
_SPACED_ROW = Compiled(
    regex=f"{_BLANK}[a-z]{_BLANK}{{1,2}}[a-z]{_BLANK}{{1,2}}[a-z]{_BLANK}",
    width=9,
    leading=True,
    trailing=True,
)
"""Three single letters in a row, one or two separators between them: where pulling letters together is worth a look."""


_ENCODED = tuple(Compiled(regex=regex, width=24, leading=False, trailing=False) for regex in ENCODED)


class Program:
    """Rules in the form in which they are run. Immutable; shared by all fields and threads."""

    def __init__(self, rules: Sequence[Rule], matcher: type[Matcher]) -> None:
        """Compile.

        Raises:
            RuleError: A rule cannot be used; the message begins with the field.
        """
        self.rules = tuple(rules)
        self.version = _digest(rules)
        main: list[Compiled] = []
        leet: list[Compiled] = []
        spaced: list[Compiled] = []
        self.main_rules: list[int] = []
        self.leet_rules: list[int] = []
        self.spaced_rules: list[int] = []
        anchors: list[Anchor] = []
        for number, rule in enumerate(self.rules):
            forms = compile_rule(rule)
            main.append(forms.plain)
            self.main_rules.append(number)
            if forms.rot13 is not None:
                main.append(forms.rot13)
                self.main_rules.append(number)
            if forms.leet is not None:
                leet.append(forms.leet)
                self.leet_rules.append(number)
            if forms.spaced is not None:
                spaced.append(forms.spaced)
                self.spaced_rules.append(number)
            anchors += [anchor._replace(rule=number) for anchor in forms.anchors]
        self.first_anchor = len(main)
        self.anchors = tuple(anchors)
        self.main_patterns = tuple(main) + tuple(anchor.compiled for anchor in anchors)
        self.leet_patterns, self.spaced_patterns = tuple(leet), tuple(spaced)
        self.spaced_row = len(self.main_patterns)
        """What `main` reports, as its greatest index, where single letters stand in a row."""
        self.main = matcher((*self.main_patterns, _SPACED_ROW))
        self.clear = matcher((*self.main_patterns, _SPACED_ROW, *_ENCODED))
        """Reports also where an ASCII text may not be its own only view: silent where one look says it all. Apart from
        `main`, which it would slow by half where text comes in small pieces."""
        self.leet = matcher(self.leet_patterns)
        self.spaced = matcher(self.spaced_patterns)
        widths = [pattern.width for pattern in main + leet] + [pattern.width * _SPACED_STRIDE for pattern in spaced]
        self.keep = max(widths, default=0) + 8
        """Bytes of a text that a later match may still need."""
        self.main_keep = max((pattern.width for pattern in self.main_patterns), default=0) + 8
        """The same for patterns in plain text: spaced letters take five times the room, and are seldom there."""
        self.leet_keep = max((pattern.width for pattern in leet), default=0) + 8


def _digest(rules: Sequence[Rule]) -> str:
    """Short name of exactly these rules, for findings: 12 hex digits of a SHA-256 over them."""
    return hashlib.sha256(msgspec.json.encode(rules, order="deterministic")).hexdigest()[:12]
