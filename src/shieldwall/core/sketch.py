# SPDX-License-Identifier: Apache-2.0
"""From a text to a sketch: numbers that mostly stay when the text is disguised, changed here and there or wrapped.

Four steps, each a pure function of the text and the key:

1. **Letters.** `core.text` makes hidden and encoded text visible; of what it gives, only letters stay, in lower case.
   Digits and signs that pass for letters become those letters and `l` becomes `i`, so case, spacing, punctuation, leet
   and s p a c e d letters leave no trace. Ideographs count three times and kana twice: they say more in one character.
2. **Fingerprints.** Each run of `SHINGLE` letters gives a public 64-bit number. What the caller calls common is
   subtracted: phrases that ordinary text is full of tell nothing.
3. **Permutation.** Speck64/128 under a key derived from the community's secret and the epoch: a bijection of 64 bits.
4. **Pieces.** A text to be recognised later is cut into pieces of at most `PIECE` places; of each the `KEPT` smallest
   values stay. A text to be judged keeps all values in order, so that any part of it can be compared with a piece.

The smallest values of a set are its MinHash in Broder's bottom-k form (`resemblance`); the values below a common bound
are a FracMinHash sample (`containment`): one short list serves both.

What the key hides: without it a value says nothing about the text, a guessed text cannot be confirmed, and nobody can
tell which shingles a sketch kept (a public choice could be evaded by changing just those). What it does not hide: that
two sketches under one key share shingles. Who holds the key can turn values back into fingerprints, and a fingerprint
of 7 letters can be found by trying likely letters; so a sketch goes only to those who may know that such a text exists.
Fingerprints are no cryptographic hash: collisions can be made on purpose, and help nobody to hide a text.

Sources: Broder, "On the resemblance and containment of documents" (1997); Irber et al., "Lightweight compositional
analysis of metagenomes with FracMinHash" (2022); Beaulieu et al., "The SIMON and SPECK families" (2013).
"""

import hashlib
import re
import sys
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.core.text import LEET, Reader, fold
from shieldwall.core.verdict import Category

__all__ = [
    "BLOCK",
    "KEPT",
    "PIECE",
    "SHINGLE",
    "Key",
    "Match",
    "Meaning",
    "Piece",
    "PlainSketcher",
    "Sketch",
    "Sketcher",
    "containment",
    "derive_key",
    "fingerprints",
    "letters",
    "locate",
    "permute",
    "pieces",
    "resemblance",
    "shared",
]

SHINGLE = 7
"""Letters in a shingle. 7, 8 and 10 were tried on train: at equal recall with 30 % of the words changed, 7 has the
fewest false matches."""

PIECE = 512
"""Most places of a piece; a longer text is cut into equal ones, so that a part of it is known too."""

KEPT = 64
"""Values kept of a piece."""

BLOCK = 128
"""Places in a block. A judged text is seen through windows of whole blocks on this fixed grid, a new one at each block;
a window is as wide as the piece looked for, a quarter more and one block: what stands outside never changes it."""

_MASK = (1 << 64) - 1
_BASE = 0x9E3779B97F4A7C15
"""Base of the rolling polynomial: the odd number nearest to 2^64 divided by the golden ratio."""
_KEY_BYTES = 32
_ROUNDS = 27
"""Rounds of Speck64/128, as specified."""
_SIGNS = "0123456789@$!"
"""Signs read as letters, the same as the rules read: others, such as brackets, stand in ordinary text all the time."""
_LONE_BANG = re.compile(r"!(?![0-9A-Za-z@$!])")
"""An exclamation mark is a letter only where a letter follows: elsewhere it ends a sentence."""


class Key(NamedTuple):
    """A community key of one epoch, ready for use."""

    id: bytes
    """8 bytes that name the key and tell nothing about it."""
    rounds: tuple[int, ...]
    """Round keys of Speck64/128, 27 numbers of 32 bits."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What a known sketch stands for."""

    id: str
    """Stable name, such as that of the indicator it came with."""
    category: Category
    technique: str = ""
    """MITRE ATLAS or OWASP LLM id."""
    score: float
    """Calibrated probability that a text like it is an attack, 0 to 1."""


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A known sketch that was found in a text."""

    meaning: Meaning
    containment: float
    """Share of a piece of the known text that stands in the window, 0 to 1, estimated from the values kept."""
    window: tuple[int, int]
    """Half-open range of letters that was compared; `locate` leads back to the text."""


class Piece(msgspec.Struct, frozen=True):
    """A part of a text, as it is held and shared."""

    values: bytes
    """Its smallest values, ascending, little-endian, at most `KEPT`; all of them where they are fewer."""
    places: int
    """How many places it spans, 1 to `PIECE`."""


class Sketch(msgspec.Struct, frozen=True):
    """A text under a key."""

    key: bytes
    """`Key.id`. Sketches under different keys have nothing in common."""
    values: bytes = b""
    """One 64-bit value per place in the text, little-endian, zero where nothing is to be compared. Stays at home: empty
    in a sketch that came from others."""
    pieces: tuple[Piece, ...] = ()
    """What is shared. Empty in a sketch made here: `pieces` makes it from the values when it is needed."""


def derive_key(secret: bytes, epoch: int) -> Key:
    """Key of one epoch from the community's secret.

    BLAKE2b under the secret gives 24 bytes per epoch: 16 for the cipher, 8 for the name; neither tells about the other
    or about another epoch.

    Raises:
        ConfigError: The secret has not 32 bytes, or the epoch is negative or beyond 64 bits.
    """
    if len(secret) != _KEY_BYTES:
        raise ConfigError(f"a community secret has {_KEY_BYTES} bytes, this one {len(secret)}")
    if not 0 <= epoch <= _MASK:
        raise ConfigError("an epoch is a number from 0 to 2^64 - 1")
    made = hashlib.blake2b(epoch.to_bytes(8, "big"), digest_size=24, key=secret, person=b"shieldwall-skt-1").digest()
    return Key(made[16:], _schedule([int.from_bytes(made[place : place + 4], "little") for place in range(0, 16, 4)]))


def _schedule(words: Sequence[int]) -> tuple[int, ...]:
    """Round keys from the four key words, the last of the paper's notation first (k0, l0, l1, l2)."""
    key, rest, rounds = words[0], list(words[1:]), []
    for turn in range(_ROUNDS):
        rounds.append(key)
        mixed, key = _round(rest[turn], key, turn)
        rest.append(mixed)
    return tuple(rounds)


def _round(left: int, right: int, key: int) -> tuple[int, int]:
    left = (((left >> 8) | (left << 24)) + right & 0xFFFFFFFF) ^ key
    return left, ((right << 3 | right >> 29) & 0xFFFFFFFF) ^ left


def permute(value: int, key: Key) -> int:
    """Speck64/128: a bijection of 64 bits."""
    left, right = value >> 32, value & 0xFFFFFFFF
    for each in key.rounds:
        left, right = _round(left, right, each)
    return left << 32 | right


def _signs() -> dict[int, str]:
    """Sign to the letter it stands for; where two letters share one, the first of the alphabet wins."""
    table = {sign: letter for letter in sorted(LEET, reverse=True) for sign in LEET[letter] if sign in _SIGNS}
    return {ord(sign): letter.replace("l", "i") for sign, letter in table.items()}


class _Letters(dict[int, str]):
    """Folded code point to the letters it counts as, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        repeats = 3 if 0x3400 <= code <= 0x9FFF or 0x20000 <= code <= 0x3FFFF else 2 if 0x3040 <= code <= 0x30FF else 1
        # Vowel marks of Indic and Thai writing are letters to a reader; those of Arabic and Hebrew may be left out.
        counts = category[0] == "L" or (category[0] == "M" and code >= 0x0900)
        self[code] = char * repeats if counts else ""
        return self[code]


def _ascii_letters() -> dict[int, str]:
    plain = {code: chr(code).lower().replace("l", "i") if chr(code).isalpha() else "" for code in range(128)}
    return plain | _signs()


_LETTERS = _Letters(_ascii_letters())
_ASCII = bytes(ord(_LETTERS[code] or " ") for code in range(128)) + bytes(128)
_DROPPED = bytes(code for code in range(128) if not _LETTERS[code])


def letters(text: str) -> str:
    """The letters of a text, of all that is encoded in it too, each decoded stretch behind a NUL.

    Args:
        text: Any string.

    Returns:
        Lower-case letters, digits and signs read as letters. `letters(a) == letters(b)` for texts that differ only in
        case, spacing, punctuation, leet or in what `core.text` removes.
    """
    reader = Reader()
    pieces = reader.feed(text.encode(errors="surrogatepass")) + reader.end()
    views: dict[int, bytes] = {}
    for piece in pieces:
        views[piece.view] = views.get(piece.view, b"") + piece.data
    return "\0".join(_view(views[number]) for number in sorted(views))


def _view(data: bytes) -> str:
    text = data.decode(errors="replace")
    if "!" in text:
        text = _LONE_BANG.sub("", text)
    if text.isascii():
        return text.encode().translate(_ASCII, _DROPPED).decode()
    return text.translate(_LETTERS)


def locate(text: str, window: tuple[int, int]) -> tuple[int, int] | None:
    """Range of letters to the range of the original text that holds them, half-open, code points.

    Returns:
        None where the range is empty, or begins behind the text itself, in what was decoded from it.
    """
    if window[0] >= window[1]:
        return None
    places = [place for place, char in enumerate(text) for _ in fold(char)]
    folded = fold(text)
    count, first, last = 0, None, 0
    for place, char in zip(places, _LONE_BANG.sub(" ", folded), strict=True):
        width = len(_LETTERS[ord(char)])
        if width and count < window[1] and count + width > window[0]:
            first = place if first is None else first
            last = place + 1
        count += width
    return None if first is None else (first, last)


def _mix(value: int) -> int:
    """The finalizer of splitmix64: a public bijection that spreads every bit over all others."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def fingerprints(text: str) -> list[int]:
    """Public fingerprint of each shingle of letters, in order; zero where a shingle would cross a NUL.

    The sum of the mixed code points, each times a power of a fixed odd base, mixed once more; never zero otherwise.
    """
    out = []
    for start in range(len(text) - SHINGLE + 1):
        value = 0
        shingle = text[start : start + SHINGLE]
        for char in shingle:
            value = (value * _BASE + _mix(ord(char) + _BASE & _MASK)) & _MASK
        out.append(0 if "\0" in shingle else _mix(value) or 1)
    return out


class Sketcher(Protocol):
    """Makes sketches under one key: one in plain Python that says what is meant, one that is fast."""

    @property
    def key(self) -> Key:
        """The key."""

    def sketch(self, text: str) -> Sketch:
        """The text's values; a text of fewer than `SHINGLE` letters has none."""


class PlainSketcher:
    """The reference, and what runs where numba is not installed: some hundred times slower than the other."""

    def __init__(self, key: Key, common: bytes = b"") -> None:
        self.key = key
        self._common = frozenset(_numbers(common)) | {0}

    def sketch(self, text: str) -> Sketch:
        """See `Sketcher.sketch`."""
        found = (0 if each in self._common else permute(each, self.key) for each in fingerprints(letters(text)))
        return Sketch(self.key.id, _packed(found))


def _numbers(data: bytes) -> "array[int]":
    """64-bit numbers, little-endian whatever the machine."""
    found = array("Q", data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _packed(numbers: Iterable[int]) -> bytes:
    made = array("Q", numbers)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def pieces(sketch: Sketch) -> tuple[Piece, ...]:
    """The pieces of a sketch: as they came, or cut from the values.

    The places are shared out evenly among as few pieces as may be; a piece in which nothing is left to compare is left
    out.
    """
    if sketch.pieces:
        return sketch.pieces
    every = _numbers(sketch.values)
    count = -(-len(every) // PIECE)
    bounds = [len(every) * number // count for number in range(count + 1)] if count else []
    parts = ((set(every[start:end]) - {0}, end - start) for start, end in pairwise(bounds))
    return tuple(Piece(_packed(sorted(values)[:KEPT]), places) for values, places in parts if values)


def shared(sketch: Sketch) -> Sketch:
    """The sketch as others may have it: without the values in their order."""
    return Sketch(sketch.key, b"", pieces(sketch))


def resemblance(one: Sketch, other: Sketch) -> float:
    """Share of the shingles of both texts together that stand in both, 0 to 1, estimated from the smallest values.

    Zero for sketches under different keys, and where there is nothing to compare.
    """
    mine, theirs = _samples(one, other)
    return len(mine & theirs) / len(mine | theirs) if mine or theirs else 0.0


def containment(part: Sketch, whole: Sketch) -> float:
    """Share of the first text's shingles that stand in the second, 0 to 1, estimated likewise."""
    mine, theirs = _samples(part, whole)
    return len(mine & theirs) / len(mine) if mine else 0.0


def _samples(one: Sketch, other: Sketch) -> tuple[set[int], set[int]]:
    """Values of both below the highest bound to which both are fully known: a FracMinHash sample of each."""
    if one.key != other.key:
        return set(), set()
    mine, theirs = ([_numbers(piece.values) for piece in pieces(sketch)] for sketch in (one, other))
    bound = min((values[-1] for values in [*mine, *theirs] if len(values) == KEPT), default=_MASK)
    return _below(mine, bound), _below(theirs, bound)


def _below(sets: "list[array[int]]", bound: int) -> set[int]:
    return {value for values in sets for value in values if value <= bound}
