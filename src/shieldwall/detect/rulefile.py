# SPDX-License-Identifier: Apache-2.0
"""Rule files: TOML with one `[[rule]]` table per rule, read and checked field by field.

docs/formats/rules.md explains every field. Whatever is wrong with a file raises a RuleError that names the file, the
rule and the field.
"""

import re
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from shieldwall.core.errors import RuleError
from shieldwall.core.event import Surface
from shieldwall.core.verdict import Category
from shieldwall.detect.forms import compile_rule
from shieldwall.detect.rule import MAX_WIDTH, Rule, Variant

__all__ = ["load_rules", "parse_rules"]

_MAX_FILE = 1 << 20
_MAX_RULES = 4096
_MATCHES_MIN = 3
_NO_MATCHES_MIN = 2
_ID = re.compile(r"[a-z0-9]+\.([a-z]+)\.[a-z0-9_]+\.[1-9][0-9]{0,3}")
_TECHNIQUE = re.compile(r"AML\.T[0-9]{4}(\.[0-9]{3})?|LLM(0[1-9]|10):[0-9]{4}")
_LANGUAGE = re.compile(r"[a-z]{2,3}|\*")


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `[[rule]]` table as it stands in the file."""

    id: str
    category: Category
    technique: str
    surfaces: list[str]
    languages: list[str]
    score: float
    pattern: str
    match: list[str]
    no_match: list[str]
    variants: list[Variant] = []
    anchors: list[str] = []
    max_width: int = MAX_WIDTH


def load_rules(path: Path | None = None) -> list[Rule]:
    """Read a rule file, every `*.toml` of a folder, or without a path the rules that come with the package.

    Raises:
        RuleError: A file cannot be read, a rule is wrong, or two have the same id.
    """
    root: Traversable = resources.files("shieldwall.detect").joinpath("rules") if path is None else path
    try:
        files = sorted(root.iterdir(), key=lambda file: file.name) if root.is_dir() else [root]
        texts = [(file.name, file.read_bytes()) for file in files if file.name.endswith(".toml")]
    except OSError as error:
        raise RuleError(f"{root.name}: cannot be read: {error.strerror}") from None
    if not texts:
        raise RuleError(f"{root.name}: holds no rule file", hint="rule files end in .toml")
    rules = [rule for name, data in texts for rule in parse_rules(data, name)]
    _check_unique(rules)
    return rules


def parse_rules(data: bytes, name: str = "rules") -> list[Rule]:
    """Read the rules of one file.

    Args:
        data: TOML, UTF-8, at most 1 MiB.
        name: How messages call the file.

    Raises:
        RuleError: The message names file, rule and field.
    """
    if len(data) > _MAX_FILE:
        raise RuleError(f"{name}: is larger than {_MAX_FILE} bytes")
    try:
        tables = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise RuleError(f"{name}: is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise RuleError(f"{name}: is not TOML: {str(error)[:200]}") from None
    entries = tables.pop("rule", None)
    if tables or not isinstance(entries, list):
        raise RuleError(f"{name}: holds [[rule]] tables and nothing else")
    if len(entries) > _MAX_RULES:
        raise RuleError(f"{name}: holds more than {_MAX_RULES} rules")
    rules = [_read(entry, name, number) for number, entry in enumerate(entries, 1)]
    _check_unique(rules)
    return rules


def _read(entry: object, name: str, number: int) -> Rule:
    known = entry.get("id") if isinstance(entry, dict) else None
    label = f"{name}: rule {known if isinstance(known, str) and _ID.fullmatch(known) else number}"
    try:
        table = msgspec.convert(entry, _Table)
    except msgspec.ValidationError as error:
        raise RuleError(f"{label}: {error}") from None
    try:
        _check(table)
        surfaces = frozenset(Surface) if table.surfaces == ["*"] else frozenset(map(Surface, table.surfaces))
    except ValueError as error:
        raise RuleError(f"{label}: surfaces: {error}") from None
    except RuleError as error:
        raise RuleError(f"{label}: {error}") from None
    rule = Rule(
        id=table.id,
        category=table.category,
        technique=table.technique,
        surfaces=surfaces,
        languages=tuple(table.languages),
        score=table.score,
        pattern=table.pattern,
        match=tuple(table.match),
        no_match=tuple(table.no_match),
        variants=frozenset(table.variants),
        anchors=tuple(table.anchors),
        max_width=table.max_width,
    )
    try:
        compile_rule(rule)
    except RuleError as error:
        raise RuleError(f"{label}: {error}") from None
    return rule


def _check(table: _Table) -> None:
    """What the types cannot say. The message begins with the field."""
    named = _ID.fullmatch(table.id)
    checks = [
        (named is not None, "id: is not owner.category.name.number"),
        (named is None or named[1] == table.category, "id: its second part is not the category"),
        (_TECHNIQUE.fullmatch(table.technique) is not None, "technique: is neither an ATLAS nor an OWASP LLM id"),
        (bool(table.surfaces), "surfaces: is empty"),
        (bool(table.languages) and all(map(_LANGUAGE.fullmatch, table.languages)), "languages: holds no ISO 639 codes"),
        (0 < table.score <= 1, "score: is not above 0 and at most 1"),
        (len(table.match) >= _MATCHES_MIN, f"match: has fewer than {_MATCHES_MIN} examples"),
        (len(table.no_match) >= _NO_MATCHES_MIN, f"no_match: has fewer than {_NO_MATCHES_MIN} examples"),
        (1 <= table.max_width <= MAX_WIDTH, f"max_width: is not 1 to {MAX_WIDTH}"),
        (len(set(table.anchors)) == len(table.anchors), "anchors: has one twice"),
        (len(table.anchors) <= 64, "anchors: are more than 64"),
    ]
    for holds, message in checks:
        if not holds:
            raise RuleError(message)


def _check_unique(rules: list[Rule]) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise RuleError(f"rule {rule.id}: id: is used twice")
        seen.add(rule.id)
