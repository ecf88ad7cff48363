# SPDX-License-Identifier: Apache-2.0
"""Where public texts come from, and how each kind of file is read: bytes in, texts out, nothing fetched here.

A table (`sources.toml`) names for each source its repository and commit, the licence, what its texts are (`label`,
`surface`, `language`), the files by shell patterns (`*` also crosses `/`), and how they are read:

    csv     a table with a header; `text` names a column, `where` keeps the rows with these values
    json    `text` is a path through it: names and numbers with `/` between, `*` for every member
    jsonl   the same, line by line
    text    a whole file, cut at blank lines into pieces of at most 6,000 characters

Rows of one piece of text are one group, and with `group = "file"` all rows of a file are.
"""

import csv
import fnmatch
import hashlib
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.core.event import Surface
from shieldwall.lab.suite import Label

__all__ = ["PACKAGED", "Source", "load_table", "texts", "wanted"]

PACKAGED = Path(__file__).parent / "sources.toml"
"""The table that comes with the package."""

MAX_CHARS = 8_000
"""Where a text is cut."""
_PIECE_CHARS = 6_000
_MAX_TABLE_BYTES = 1 << 20
_MAX_PARTS = 16

_Commit = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{7,40}$")]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of texts."""

    repository: str
    """Address that git can clone."""
    commit: _Commit
    licence: str
    split: Literal["train", "dev/ood", "dev/indist"]
    label: Label
    surface: Surface = Surface.PROMPT
    language: str = "und"
    files: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    kind: Literal["csv", "json", "jsonl", "text"]
    text: str = ""
    where: dict[str, str] = {}
    group: Literal["text", "file"] = "text"

    @property
    def name(self) -> str:
        """Owner and repository, as the rows name it."""
        parts = self.repository.removesuffix(".git").rstrip("/").split("/")
        return "/".join(parts[-2:])


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    source: list[Source]


def load_table(path: Path = PACKAGED) -> list[Source]:
    """The sources of a table. Raises ConfigError naming the file and what is wrong."""
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_TABLE_BYTES:
            raise ConfigError(f"{path.name} is over {_MAX_TABLE_BYTES} bytes")
        table = msgspec.convert(tomllib.loads(raw.decode()), _Table)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise ConfigError(f"{path.name} is not TOML") from None
    for source in table.source:
        if source.repository.startswith("-") or "::" in source.repository:
            raise ConfigError(f"{path.name}: {source.name} is not an address to clone from")
        if source.kind != "text" and not source.text:
            raise ConfigError(f"{path.name}: {source.name} does not say where its texts are (`text`)")
    return table.source


def wanted(source: Source, paths: list[str]) -> list[str]:
    """Which of a repository's paths belong to a source, sorted."""
    chosen = [path for path in paths if any(fnmatch.fnmatchcase(path, pattern) for pattern in source.files)]
    return sorted(path for path in chosen if not any(fnmatch.fnmatchcase(path, each) for each in source.exclude))


def texts(source: Source, path: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """Every text of one file, with the group it belongs to; surrounding white space is no part of it.

    Raises:
        InvalidInput: The file is not what the table says it is.
    """
    try:
        found = list(_READERS[source.kind](source, raw.decode("utf-8-sig")))
    except (UnicodeDecodeError, csv.Error, msgspec.MsgspecError, RecursionError, KeyError) as error:
        raise InvalidInput(f"{source.name}: {path} cannot be read as {source.kind} ({type(error).__name__})") from None
    for each in found:
        text = each.strip()[:MAX_CHARS].strip()
        if text:
            by = f"{source.name}\0{path}" if source.group == "file" else " ".join(text.lower().split())
            yield text, hashlib.sha256(by.encode(errors="replace")).hexdigest()[:16]


def _csv(source: Source, text: str) -> Iterator[str]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for row in rows:
        if all(row[name] == value for name, value in source.where.items()):
            yield row[source.text] or ""


def _json(source: Source, text: str) -> Iterator[str]:
    yield from _at(msgspec.json.decode(text), source.text.split("/")[:_MAX_PARTS])


def _jsonl(source: Source, text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip():
            yield from _json(source, line)


def _at(value: Any, steps: list[str]) -> Iterator[str]:  # noqa: ANN401  decoded JSON
    """The strings at the end of a path; what has no such member, or holds something else there, has none."""
    if not steps:
        if isinstance(value, str):
            yield value
        return
    step, rest = steps[0], steps[1:]
    members: list[Any] = []
    if isinstance(value, list):
        is_index = step.isascii() and step.isdigit() and int(step) < len(value)
        members = value if step == "*" else [value[int(step)]] if is_index else []
    elif isinstance(value, dict):
        members = list(value.values()) if step == "*" else [value[step]] if step in value else []
    for member in members:
        yield from _at(member, rest)


def _text(_: Source, text: str) -> Iterator[str]:
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        if piece and len(piece) + len(paragraph) + 2 > _PIECE_CHARS:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    yield piece


_READERS = {"csv": _csv, "json": _json, "jsonl": _jsonl, "text": _text}
