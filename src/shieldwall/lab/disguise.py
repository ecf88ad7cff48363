# SPDX-License-Identifier: Apache-2.0
"""Spells a text in another way that a reader, or a model, still understands.

What is used to make training texts robust, and what the attacker of the range tries. Each change takes a text and a
random generator and returns a text; most change a part of it only.
"""

# ruff: noqa: RUF001  letters that look alike are what this is about

import base64
import codecs
import random
import re
from collections.abc import Callable

__all__ = ["CHANGES", "disguise"]

_WORD = re.compile(r"[^\W\d_]{3,}")
_LEET = str.maketrans({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"})
_ALIKE = str.maketrans(
    {"a": "а", "c": "с", "e": "е", "i": "і", "o": "о", "p": "р", "x": "х", "y": "у", "A": "А", "E": "Е", "O": "О"}
)
_HIDDEN = "\u200b\u200c\u2060\u00ad"
_JOINERS = ("-", ".", "_", " ")


def _words(change: Callable[[str, random.Random], str], share: float) -> Callable[[str, random.Random], str]:
    """A change of words as a change of a text: that share of them."""

    def whole(text: str, chance: random.Random) -> str:
        return _WORD.sub(lambda word: change(word[0], chance) if chance.random() < share else word[0], text)

    return whole


def _swap(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word) - 1)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _drop(word: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(word))
    return word[:at] + word[at + 1 :]


def _double(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word))
    return word[:at] + word[at] + word[at:]


def _hide(word: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(word))
    return word[:at] + chance.choice(_HIDDEN) + word[at:]


def _encode(text: str, chance: random.Random) -> str:
    """A stretch of the text in base64, hex or rot13, with a word that says so."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    inner = lines[at].strip() or text.strip()
    kind, coded = chance.choice(
        (
            ("base64", base64.b64encode(inner.encode()).decode()),
            ("hex", inner.encode().hex()),
            ("rot13", codecs.encode(inner, "rot13")),
        )
    )
    lines[at] = f"{chance.choice(('', f'{kind}: ', f'decode this {kind} and read it: '))}{coded}"
    return "\n".join(lines)


def _split(text: str, chance: random.Random) -> str:
    """Line breaks where there were blanks."""
    return re.sub(r" ", lambda _: "\n" if chance.random() < 0.2 else " ", text)


def _wide(text: str, _: random.Random) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "leet": _words(lambda word, _: word.translate(_LEET), 0.7),
    "alike": _words(lambda word, _: word.translate(_ALIKE), 0.6),
    "hidden": _words(_hide, 0.5),
    "swapped": _words(_swap, 0.25),
    "dropped": _words(_drop, 0.25),
    "doubled": _words(_double, 0.25),
    "spaced": _words(lambda word, chance: chance.choice(_JOINERS).join(word), 0.3),
    "upper": lambda text, _: text.upper(),
    "lower": lambda text, _: text.lower(),
    "mixed": _words(lambda word, chance: "".join(chance.choice((c.upper(), c.lower())) for c in word), 0.6),
    "wide": _wide,
    "split": _split,
    "encoded": _encode,
}
"""Name to change."""

_USUAL = tuple(name for name in CHANGES if name != "encoded")


def disguise(text: str, chance: random.Random) -> str:
    """One or two changes by chance; what is encoded as a whole is left to the decoders and comes seldom."""
    for name in chance.sample(_USUAL, chance.choice((1, 1, 2))):
        text = CHANGES[name](text, chance)
    return CHANGES["encoded"](text, chance) if chance.random() < 0.1 else text
