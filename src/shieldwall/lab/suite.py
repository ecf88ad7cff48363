# SPDX-License-Identifier: Apache-2.0
"""A suite is a set of labelled texts on which defences are measured: files of JSON lines or Parquet, read as a stream.

Columns are `text` and `label`, and where there is more to say `surface`, `language`, `source`, `licence` and `group`.
Rows of one group stand and fall together (one template, one attack string, one paragraph): intervals are drawn over
groups, and a group stays on one side of every split.

What stands in a suite is hostile data. It is handed to defences and to nothing else: no message of this module repeats
a text. A row that cannot be read is a `Rejected` with its place; the others go on.
"""

import enum
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.core.event import Surface
from shieldwall.lab.extras import missing

__all__ = ["ATTACKS", "CORPORA", "MAX_LINE_BYTES", "NAMED", "FileDigest", "Label", "Rejected", "Row", "Suite"]

CORPORA = "SHIELDWALL_CORPORA"
"""Environment variable that names the directory of the corpora."""

NAMED = ("smoke", "dev/ood", "dev/indist", "train")
"""Suites with a name: the first comes with the package, the others are looked for in the corpora directory."""

MAX_LINE_BYTES = 4 << 20
"""Longest line of a JSON lines file, 4 MiB: longer ones are skipped, so that a broken file cannot fill the memory."""

_MAX_FILE_BYTES = 8 << 30
"""Unpacked size of one file: a bound on what a small compressed file can make the range read."""
_BATCH_ROWS = 1024
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_COLUMNS = ("text", "label", "surface", "language", "source", "licence", "group")
_BLOCK = 1 << 20
_MAX_WORD = 300
"""Longest value of a column that names something, code points: names go into results, texts never do."""


class Label(enum.StrEnum):
    """What a text is."""

    BENIGN = "benign"
    INJECTION = "injection"
    JAILBREAK = "jailbreak"
    EXTRACTION = "extraction"
    HARMFUL = "harmful"
    """A plain harmful request without a trick: a matter of content policy, neither attack nor benign."""


ATTACKS = frozenset({Label.INJECTION, Label.JAILBREAK, Label.EXTRACTION})
"""What a detector of attacks should find."""

_SURFACES = {each.value: each for each in Surface} | {"user": Surface.PROMPT, "tool_output": Surface.TOOL_RESULT}
_LABELS = {each.value: each for each in Label}


class Row(NamedTuple):
    """One labelled text."""

    text: str
    label: Label
    surface: Surface = Surface.PROMPT
    language: str = "und"
    """ISO 639 code; `und` where it is not known."""
    source: str = ""
    licence: str = ""
    group: str = ""
    """Name of the set of rows that are not independent of each other; a row without one is a group of its own."""


class Rejected(msgspec.Struct, frozen=True):
    """A row that could not be used."""

    place: str
    """File and line or row, counted from 1: `attacks.jsonl:12`."""
    reason: str
    """What is wrong with it; never the text."""


class FileDigest(msgspec.Struct, frozen=True):
    """Which bytes were read."""

    name: str
    sha256: str
    bytes: int


class _Lines(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...


class Suite:
    """Files of rows under one name."""

    def __init__(self, name: str, files: tuple[Path, ...]) -> None:
        self.name = name
        self.files = files

    @classmethod
    def find(cls, name: str, corpora: Path | None = None) -> "Suite":
        """The suite of a name or a path.

        Args:
            name: One of `NAMED`, or the path of a file or folder; `./train` is the folder of that name.
            corpora: Where named suites lie; None for what the environment says.

        Raises:
            ConfigError: There is no such suite; the message says where it was looked for.
        """
        if name == "smoke":
            return cls(name, (Path(__file__).parent / "suites" / "smoke.jsonl",))
        if name not in NAMED:
            path = Path(name)
            return cls(path.name or path.resolve().name, _files(path))
        if corpora is None:
            if not os.environ.get(CORPORA):
                raise ConfigError(
                    f"suite {name} needs the corpora, and no directory is named",
                    hint=f"give --corpora DIR or set {CORPORA}; `shieldwall lab corpora build DIR` makes a public one",
                )
            corpora = Path(os.environ[CORPORA])
        for path in (corpora / name, *(corpora / f"{name}{suffix}" for suffix in _SUFFIXES)):
            if path.exists():
                return cls(name, _files(path))
        raise ConfigError(f"suite {name} is not in the corpora directory", hint=f"is {CORPORA} or --corpora right?")

    def digests(self) -> tuple[FileDigest, ...]:
        """SHA-256 of every file, in the order in which they are read."""
        return tuple(_digest(path) for path in self.files)

    def rows(self) -> Iterator[Row | Rejected]:
        """Every row in order, as they are read; a row that cannot be used takes its place as a `Rejected`.

        Raises:
            InvalidInput: A file as a whole cannot be read.
            MissingExtra: A Parquet file is to be read and pyarrow is not installed.
        """
        for path in self.files:
            yield from _parquet(path) if path.suffix == ".parquet" else _lines(path)


def digest_of(files: tuple[FileDigest, ...]) -> str:
    """One digest for a suite: that of its only file, or of the list that `sha256sum` would print."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{each.sha256}  {each.name}\n" for each in files).encode()).hexdigest()


def read_row(value: Any, place: str) -> Row | Rejected:  # noqa: ANN401  what a file held
    """One decoded object as a row, or what is wrong with it."""
    if not isinstance(value, dict):
        return Rejected(place, "not an object with `text` and `label`")
    text = value.get("text")
    if not isinstance(text, str):
        return Rejected(place, "`text` must be a string")
    words: dict[str, str] = {}
    for name in _COLUMNS[1:]:
        word = value.get(name)
        if word is None:
            continue
        if not isinstance(word, str) or len(word) > _MAX_WORD or not word.isprintable():
            return Rejected(place, f"`{name}` must be a printable string of at most {_MAX_WORD} characters")
        words[name] = word
    label = _LABELS.get(words.get("label", ""))
    if label is None:
        return Rejected(place, f"`label` must be one of {', '.join(_LABELS)}")
    surface = _SURFACES.get(words.get("surface", "prompt"))
    if surface is None:
        return Rejected(place, f"`surface` must be one of {', '.join(_SURFACES)}")
    file = place.rpartition(":")[0]
    return Row(
        text,
        label,
        surface,
        words.get("language") or "und",
        words.get("source") or file,
        words.get("licence", ""),
        words.get("group") or place,
    )


def _files(path: Path) -> tuple[Path, ...]:
    try:
        found = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"suite {path} cannot be read: {reason}", hint=f"named suites: {', '.join(NAMED)}") from None
    found = [each for each in found if each.name.endswith(_SUFFIXES)]
    if not found:
        raise ConfigError(f"suite {path} holds no file that ends in {', '.join(_SUFFIXES)}")
    return tuple(found)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the disk and the decompressor say into an error that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path.name} cannot be read: {type(error).__name__}", where=path.name) from None


def _digest(path: Path) -> FileDigest:
    state, size = hashlib.sha256(), 0
    with _reading(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
            size += len(block)
    return FileDigest(path.name, state.hexdigest(), size)


def _lines(path: Path) -> Iterator[Row | Rejected]:
    with _reading(path):
        if path.suffix == ".gz":
            with gzip.open(path) as unpacked:
                yield from read_lines(unpacked, path.name)
        else:
            with path.open("rb") as file:
                yield from read_lines(file, path.name)


def read_lines(file: _Lines, name: str) -> Iterator[Row | Rejected]:
    """The rows of a JSON lines file; empty lines are none.

    Raises:
        LimitExceeded: The file is larger than any corpus: a compressed bomb rather than data.
    """
    number = total = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{name}:{number}"
        total += len(line)
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
                total += len(line)
                _bound(total, name)
            yield Rejected(place, f"the line is over {MAX_LINE_BYTES} bytes")
            continue
        _bound(total, name)
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield Rejected(place, "not a JSON object in UTF-8")
            continue
        yield read_row(value, place)


def _bound(total: int, name: str) -> None:
    if total > _MAX_FILE_BYTES:
        raise LimitExceeded(f"{name} holds more than {_MAX_FILE_BYTES} bytes", where=name)


def _parquet(path: Path) -> Iterator[Row | Rejected]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing("reading Parquet", error) from None
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            if lacking := [name for name in _COLUMNS[:2] if name not in columns]:
                raise InvalidInput(f"{path.name} has no column {' and no column '.join(lacking)}", where=path.name)
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                for value in batch.to_pylist():
                    number += 1
                    yield read_row(value, f"{path.name}:{number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {type(error).__name__}", where=path.name) from None
