# SPDX-License-Identifier: Apache-2.0
"""One plain spelling for text that can be written in many ways.

`fold` looks at one code point at a time, so that `fold(a + b) == fold(a) + fold(b)` holds for every cut. That is why it
decomposes (NFKD per code point) and does not compose: NFKC joins characters across a cut. Two strings that are equal
under NFKC fold equally, apart from the order of marks that are kept (Arabic, Hebrew, Indic).

For each code point, the first line that applies:

1. Unicode tag characters become the ASCII they hide; every white space but TAB, LF and CR becomes a space.
2. What shows nothing is dropped: controls, zero-width characters, bidi controls, variation selectors, soft hyphens and
   all other default ignorables, combining marks that only decorate.
3. A lone surrogate becomes U+FFFD.
4. ASCII stays, letters in their case: matchers are caseless and encodings such as base64 are not.
5. The rest is decomposed, case-folded, and mapped to the ASCII character it looks like: quotes, dashes, decimal digits
   by value, letters by `confusables.txt`, which names its source and recipe.

Vertical tab and form feed are white space in Unicode, so rule 1 takes them: a page break must not join two words.
Tables follow the Unicode version of the running Python; a code point newer than that is kept as it is.
"""

import unicodedata
from importlib import resources

__all__ = ["DROPPED", "LEET", "TABLE", "fold"]

LEET: dict[str, str] = {
    "a": "4@^",
    "b": "8",
    "c": "(<{",
    "e": "3€",
    "g": "69",
    "h": "#",
    "i": "1!|",
    "l": "1|",
    "o": "0",
    "p": "9",
    "q": "9",
    "s": "5$",
    "t": "7+",
    "x": "%",
    "z": "2",
}
"""Letter to the characters that stand for it in leet spelling. Not part of `fold`: rules compile these variants in."""

_MAX_CACHED = 1 << 16
"""Entries the table may remember. 65,536 entries measured 10 MB; all of Unicode would be 17 times that."""

_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, and the interlinear marks U+FFF9 to U+FFFB."""

_DECORATION = (
    (0x0300, 0x036F),
    (0x0483, 0x0489),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
    (0xFE20, 0xFE2F),
)
"""Blocks of combining marks that no writing system needs to be read, and that stacked text abuses."""

_SPACES = frozenset((0x0B, 0x0C, 0x85, 0x2028, 0x2029, 0x2800))
"""White space whose category is not Zs, and the empty Braille cell, which looks like one."""

_QUOTES = {
    "'": (0x02B9, 0x02BB, 0x02BC, 0x02BD, 0x02C8, 0x2018, 0x2019, 0x201A, 0x201B, 0x2032, 0x2035, 0x2039, 0x203A),
    '"': (0x00AB, 0x00BB, 0x02BA, 0x201C, 0x201D, 0x201E, 0x201F, 0x275D, 0x275E, 0x301D, 0x301E, 0x301F),
    "-": (0x02D7, 0x2043, 0x2212),
    "/": (0x2044, 0x2215, 0x29F8),
    "\\": (0x2216, 0x29F5, 0x29F9),
    "|": (0x01C0, 0x2223),
    "!": (0x01C3,),
    ":": (0x02D0, 0x0589, 0x05C3, 0x2236, 0xA789),
    "~": (0x223C,),
    "*": (0x2217,),
    "<": (0x02C2,),
    ">": (0x02C3,),
}
"""Punctuation that looks like ASCII; Unicode dashes (category Pd) come in by category."""


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _load() -> dict[str, str]:
    """The look-alike letters of `confusables.txt` and the punctuation above."""
    table = {chr(code): plain for plain, codes in _QUOTES.items() for code in codes}
    lines = resources.files(__package__).joinpath("confusables.txt").read_text("ascii").splitlines()
    for line in lines:
        if line.startswith("#"):
            continue
        plain, *codes = line.split(" ")
        table.update((chr(int(code, 16)), plain) for code in codes)
    return table


class _Table(dict[int, str]):
    """Code point to its fold, for `str.translate`; computes what it has not seen and remembers a bounded part."""

    __slots__ = ("_plain",)

    def __init__(self) -> None:
        super().__init__()
        self._plain: dict[str, str] | None = None

    def __missing__(self, code: int) -> str:
        folded = self._fold(code)
        if len(self) < _MAX_CACHED:
            self[code] = folded
        return folded

    def _fold(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if 0xE0020 <= code <= 0xE007E:
            return chr(code - 0xE0000)
        if category == "Zs" or code in _SPACES:
            return " "
        if char in "\t\n\r":
            return char
        if category == "Cc" or _within(code, _IGNORABLE) or _within(code, _DECORATION):
            return ""
        if category == "Cs":
            return "\ufffd"
        if code < 0x80:
            return char
        atoms = unicodedata.normalize("NFKD", char)
        # A decomposition can hold what is dropped or mapped above, such as the space of U+00B4.
        return "".join(map(self.__getitem__, map(ord, atoms))) if atoms != char else self._look(char, category)

    def _look(self, char: str, category: str) -> str:
        """Fold of a code point beyond ASCII that does not decompose."""
        if self._plain is None:
            self._plain = _load()
        if category == "Nd":
            return str(unicodedata.decimal(char))
        if category == "Pd":
            return "-"
        plain = self._plain.get(char)
        if plain is not None:
            return plain
        lower = char.casefold()
        return lower if lower == char else "".join(map(self.__getitem__, map(ord, lower)))


TABLE = _Table()
"""The fold as a table for `str.translate`."""

DROPPED = bytes(code for code in range(0x80) if (code < 0x20 and code not in b"\t\n\r") or code == 0x7F)
"""ASCII that does not fold to itself: text of other ASCII is its own fold."""


def fold(text: str) -> str:
    """Text in one plain spelling, code point by code point; see the module for the rules.

    Args:
        text: Any string, lone surrogates included.

    Returns:
        Text without lone surrogates. ASCII letters keep their case; the rest is case-folded.
    """
    if text.isascii() and len(text.encode().translate(None, DROPPED)) == len(text):
        return text
    return text.translate(TABLE)
