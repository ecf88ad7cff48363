# SPDX-License-Identifier: Apache-2.0
r"""Writes texts from phrases: a small grammar in plain files, expanded with a seeded random generator.

    # a comment
    == greeting
    Hello {person},
    Good {morning/afternoon/evening},

    @ mail.forward injection document en 3 {greeting}\n\n{body}

A line `== name` opens a list; each line below it is one alternative. In an alternative

    {name}          is replaced by one alternative of that list
    {a/b/c}         by one of these words (the last may be empty: {please/})
    {3-90}          by a whole number in that range
    {name|cap}      by the same, changed: see `CHANGES`; several changes follow each other with `|`
    \n \t           are a line break and a tab, \{ and \} braces that are meant

A line `@ family label surface language weight template` names something that can be asked for: a family.
What a family gives is a pure function of the files and the generator's state.
"""

import html
import json
import random
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from shieldwall.core.errors import ConfigError

__all__ = ["CHANGES", "Family", "Grammar"]

_MAX_DEPTH = 24
"""Lists inside lists: deeper than anything written by hand, so a circle is noticed."""
_SLOT = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_.]*")
_FAMILY = re.compile(r"@ ([a-z][a-z0-9_.]*) (\w+) (\w+) ([a-z]{2,3}) (\d{1,4}) (.+)", re.ASCII)

CHANGES: Mapping[str, Callable[[str], str]] = {
    "cap": lambda text: text[:1].upper() + text[1:],
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "json": lambda text: json.dumps(text)[1:-1],
    "html": html.escape,
    "url": urllib.parse.quote,
    "quote": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
    "comment": lambda text: "\n".join(f"# {line}" for line in text.split("\n")),
    "slashes": lambda text: "\n".join(f"// {line}" for line in text.split("\n")),
    "oneline": lambda text: " ".join(text.split()),
    "csv": lambda text: '"' + text.replace('"', '""') + '"',
    "nodot": lambda text: text.rstrip(".!?"),
}
"""What `{name|change}` may do to a text."""


class Family(NamedTuple):
    """One kind of text that can be asked for."""

    name: str
    label: str
    surface: str
    language: str
    weight: int
    template: str


class Grammar:
    """Lists of alternatives and the families written with them. Immutable once read."""

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        """Read files.

        Args:
            files: Name and content of each.

        Raises:
            ConfigError: A line cannot be read, or a slot names a list that is in none of the files.
        """
        self._lists: dict[str, list[str]] = {}
        self.families: dict[str, Family] = {}
        for name, text in files:
            self._read(name, text)
        for name, alternatives in self._lists.items():
            if not alternatives:
                raise ConfigError(f"the list {name} is empty")
            for alternative in alternatives:
                self._check(alternative, name)
        for family in self.families.values():
            self._check(family.template, family.name)

    def expand(self, template: str, chance: random.Random) -> str:
        """One text of a template."""
        return self._expand(template, chance, 0)

    def make(self, family: str, chance: random.Random) -> str:
        """One text of a family. Raises ConfigError when there is no such family."""
        if family not in self.families:
            raise ConfigError(f"there is no family {family}")
        return self._expand(self.families[family].template, chance, 0)

    def _read(self, name: str, text: str) -> None:
        current: list[str] | None = None
        for number, line in enumerate(text.split("\n"), 1):
            line = line.rstrip("\r ")  # noqa: PLW2901
            if not line or line.startswith("# "):
                continue
            if line.startswith("== "):
                current = self._lists.setdefault(line[3:].strip(), [])
            elif line.startswith("@ "):
                found = _FAMILY.fullmatch(line)
                if found is None or found[1] in self.families:
                    raise ConfigError(f"{name}:{number}: a family is written `@ name label surface language weight …`")
                self.families[found[1]] = Family(
                    found[1], found[2], found[3], found[4], int(found[5]), _unescaped(found[6])
                )
            elif current is None:
                raise ConfigError(f"{name}:{number}: a phrase stands before the first list")
            else:
                current.append(_unescaped(line))

    def _check(self, template: str, where: str) -> None:
        for found in _SLOT.finditer(template):
            name, *changes = found[1].split("|")
            if any(change not in CHANGES for change in changes):
                raise ConfigError(f"{where}: the slot {found[0]} asks for a change that is not known")
            number = _RANGE.fullmatch(name)
            if number is not None and int(number[1]) > int(number[2]):
                raise ConfigError(f"{where}: the range {found[0]} ends before it begins")
            if "/" not in name and number is None and name not in self._lists:
                raise ConfigError(f"{where}: the slot {found[0]} names no list")

    def _expand(self, template: str, chance: random.Random, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise ConfigError("lists contain each other in a circle")

        def filled(found: re.Match[str]) -> str:
            name, *changes = found[1].split("|")
            number = _RANGE.fullmatch(name)
            if number is not None:
                text = str(chance.randint(int(number[1]), int(number[2])))
            elif "/" in name:
                text = chance.choice(name.split("/"))
            else:
                text = self._expand(chance.choice(self._lists[name]), chance, depth + 1)
            for change in changes:
                text = CHANGES[change](text)
            return text

        return _SLOT.sub(filled, template).translate(_BRACES)


_BRACES = {1: "{", 2: "}"}


def _unescaped(text: str) -> str:
    for written, meant in (("\\n", "\n"), ("\\t", "\t"), ("\\{", "\x01"), ("\\}", "\x02")):
        text = text.replace(written, meant)
    return text
