# SPDX-License-Identifier: Apache-2.0
"""One rule compiled: its phrase in every form it asks for, its anchors checked against the phrase.

Text may only leave a stream when no match can have begun; so the anchors of a rule must cover every beginning of its
phrase, which is computed, not believed. The same goes for its width.
"""

import re
from typing import NamedTuple

from shieldwall.core.errors import RuleError
from shieldwall.detect.phrase import (
    ROT13,
    SEPARATOR,
    SKELETON,
    Compiled,
    beginnings,
    compile_phrase,
    is_ascii,
    least_letters,
    parse,
)
from shieldwall.detect.rule import MAX_WIDTH, Rule, Variant

__all__ = ["Anchor", "Forms", "compile_rule"]

_SPACED_MIN = 8
"""Letters a phrase needs before its spaced form means anything."""
_ANCHOR = re.compile(r"([0-9a-z]+(?: [0-9a-z]+){0,3})(\*?)")


class Anchor(NamedTuple):
    """A beginning of a rule's match, on which text is held."""

    rule: int
    text: bytes
    """Skeleton bytes, words separated by one space."""
    stem: bool
    compiled: Compiled
    reach: int
    """Bytes after the anchor's first within which a match of the rule has ended."""


class Forms(NamedTuple):
    """One rule compiled in all the forms it asks for."""

    plain: Compiled
    rot13: Compiled | None
    leet: Compiled | None
    spaced: Compiled | None
    anchors: tuple[Anchor, ...]


def compile_rule(rule: Rule) -> Forms:
    """Compile one rule and check what depends on the compiled form.

    Raises:
        RuleError: The message begins with the field.
    """
    try:
        nodes = parse(rule.pattern)
    except RuleError as error:
        raise RuleError(f"pattern: {error}") from None
    plain = compile_phrase(nodes)
    if plain.width > min(rule.max_width, MAX_WIDTH):
        raise RuleError(
            f"max_width: a match may have {plain.width} bytes, allowed are {min(rule.max_width, MAX_WIDTH)}"
        )
    if rule.variants and not is_ascii(nodes):
        raise RuleError("variants: only phrases of ASCII words without quotes and runs have them")
    spaced = compile_phrase(nodes, joined=True) if Variant.SPACED in rule.variants else None
    if spaced is not None and least_letters(nodes) < _SPACED_MIN:
        raise RuleError("variants: the phrase is too short to be looked for as spaced letters")
    try:
        starts = beginnings(nodes) if rule.anchors else set()
        anchors = tuple(_anchor(text, plain) for text in rule.anchors)
        _check_cover(anchors, starts)
    except RuleError as error:
        raise RuleError(f"anchors: {error}") from None
    return Forms(
        plain=plain,
        rot13=compile_phrase(nodes, letters=lambda text: text.translate(ROT13))
        if Variant.ROT13 in rule.variants
        else None,
        leet=compile_phrase(nodes, loose=True) if Variant.LEET in rule.variants else None,
        spaced=spaced,
        anchors=anchors,
    )


def _anchor(text: str, plain: Compiled) -> Anchor:
    match = _ANCHOR.fullmatch(text)
    if match is None:
        raise RuleError(f"{text!r} is not one to four words of lower-case ASCII letters and digits")
    words, stem = match[1].encode().translate(SKELETON), bool(match[2])
    regex = (SEPARATOR + "{1,3}").join(word.decode() for word in words.split())
    compiled = Compiled(
        regex=f"[^0-9a-z]{regex}" + ("" if stem else "[^0-9a-z]"),
        width=plain.width,
        leading=True,
        trailing=not stem,
    )
    return Anchor(rule=-1, text=words, stem=stem, compiled=compiled, reach=plain.width)


def _check_cover(anchors: tuple[Anchor, ...], starts: set[str]) -> None:
    """Text may only leave when no match can have begun: the anchors together must cover every beginning."""
    used = set()
    for start in starts:
        skeleton = start.encode().translate(SKELETON)
        for anchor in anchors:
            if skeleton.startswith(anchor.text) if anchor.stem else (skeleton + b" ").startswith(anchor.text + b" "):
                used.add(anchor)
                break
        else:
            raise RuleError(f"a match may begin with {start!r}, which no anchor covers")
    for anchor in anchors:
        if anchor not in used:
            raise RuleError(f"{anchor.text.decode()!r} is no beginning of the pattern, or another anchor covers it")
