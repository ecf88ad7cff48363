# SPDX-License-Identifier: Apache-2.0
"""Ways in which somebody sends a known text again: words changed, case, spacing, leet, wrapped in other text."""

import random
from collections.abc import Callable, Sequence

from shieldwall.core.text import LEET

__all__ = ["DISGUISES", "changed", "wrapped"]

Disguise = Callable[[str, Sequence[str], random.Random], str]
_SIGNS = {letter: sign for letter in LEET for sign in LEET[letter] if sign.isdigit()}


def changed(text: str, others: Sequence[str], chance: random.Random, share: float) -> str:
    """A share of the words replaced, deleted or followed by a new one, each with the same chance."""
    words = text.split()
    for place in sorted(chance.sample(range(len(words)), round(share * len(words))), reverse=True):
        kind = chance.randrange(3)
        if kind == 0:
            words[place] = chance.choice(others)
        elif kind == 1:
            del words[place]
        else:
            words.insert(place + 1, chance.choice(others))
    return " ".join(words)


def _cased(text: str, _: Sequence[str], chance: random.Random) -> str:
    return "".join(chance.choice((char.upper(), char.lower())) for char in text)


def _spaced(text: str, _: Sequence[str], chance: random.Random) -> str:
    """One of: every letter apart, blanks of many kinds between words, words run together."""
    kind = chance.randrange(3)
    if kind == 0:
        return " ".join(text)
    blanks = ("  ", "\n", "\t", "\u00a0", "\u2003", " \n ") if kind == 1 else ("", "", " ")
    return "".join(word + chance.choice(blanks) for word in text.split())


def _leet(text: str, _: Sequence[str], chance: random.Random) -> str:
    """Every second letter that has a digit for it."""
    return "".join(_SIGNS.get(char.lower(), char) if chance.random() < 0.5 else char for char in text)


def wrapped(text: str, others: Sequence[str], chance: random.Random, times: float = 1.0) -> str:
    """As many words of one other text as its own, times a number, around it."""
    count = max(1, round(times * len(text.split())))
    start = chance.randrange(max(1, len(others) - count))
    around = list(others[start : start + count])
    cut = chance.randrange(len(around) + 1)
    return " ".join([*around[:cut], text, *around[cut:]])


DISGUISES: dict[str, Disguise] = {
    "15 % of words changed": lambda text, others, chance: changed(text, others, chance, 0.15),
    "30 % of words changed": lambda text, others, chance: changed(text, others, chance, 0.30),
    "case": _cased,
    "spacing": _spaced,
    "leet": _leet,
    "wrapped 1:1": wrapped,
    "wrapped 1:1 and 15 % changed": lambda text, others, chance: wrapped(
        changed(text, others, chance, 0.15), others, chance
    ),
}
"""What the recall is measured under."""
