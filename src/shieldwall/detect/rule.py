# SPDX-License-Identifier: Apache-2.0
"""A detection rule: one phrase that gives an attack away, with what it means and how it is shown to work.

`rulefile` reads rules from files, `forms` compiles them. A rule's text is never code.
"""

import enum

import msgspec

from shieldwall.core.event import Surface
from shieldwall.core.verdict import Category

__all__ = ["MAX_WIDTH", "Rule", "Variant"]

MAX_WIDTH = 256
"""Greatest width of a match in folded bytes, hence in code points: text is never held longer."""


class Variant(enum.StrEnum):
    """A disguise the rule is also looked for in."""

    LEET = "leet"
    SPACED = "spaced"
    ROT13 = "rot13"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One phrase that gives an attack away."""

    id: str
    """`owner.category.name.number`, as it appears in reports."""
    category: Category
    technique: str
    """MITRE ATLAS or OWASP LLM id."""
    surfaces: frozenset[Surface]
    """Where the rule applies."""
    languages: tuple[str, ...]
    """ISO 639 codes of the phrase, or `*` for markers that belong to no language."""
    score: float
    """Measured precision, 0 to 1."""
    pattern: str
    """In the language of `phrase`."""
    match: tuple[str, ...]
    """Texts the rule finds, at least three."""
    no_match: tuple[str, ...]
    """Texts near to them that it does not, at least two."""
    variants: frozenset[Variant] = frozenset()
    anchors: tuple[str, ...] = ()
    """Words with which every match begins; text is held back from there until it is clear. Empty: none is."""
    max_width: int = MAX_WIDTH
    """Greatest width of a match in folded bytes, borders included."""
