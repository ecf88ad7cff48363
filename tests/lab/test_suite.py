# SPDX-License-Identifier: Apache-2.0
"""Reading suites: both formats, every column, hostile bytes, and no text in any message."""

import gzip
import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shieldwall.core.errors import ConfigError, Error, InvalidInput, MissingExtra
from shieldwall.core.event import Surface
from shieldwall.lab.suite import ATTACKS, CORPORA, MAX_LINE_BYTES, Label, Rejected, Row, Suite, digest_of
from tests.lab.conftest import Write, row

FULL = {
    "text": "a",
    "label": "injection",
    "surface": "tool_output",
    "language": "en",
    "source": "s",
    "licence": "l",
    "group": "g",
}


def usable(path: Path) -> list[Row]:
    return [each for each in Suite.find(str(path)).rows() if isinstance(each, Row)]


def rejected(path: Path) -> list[Rejected]:
    return [each for each in Suite.find(str(path)).rows() if isinstance(each, Rejected)]


def test_every_column_is_read_and_most_may_be_left_out(write: Write) -> None:
    """A row without a group is a group of its own; one without a source is of its file."""
    path = write("s.jsonl", FULL, row("b"))

    one, other = usable(path)

    assert one == Row("a", Label.INJECTION, Surface.TOOL_RESULT, "en", "s", "l", "g")
    assert other == Row("b", Label.BENIGN, Surface.PROMPT, "und", "s.jsonl", "", "s.jsonl:2")


def test_parquet_and_json_lines_say_the_same(tmp_path: Path, write: Write) -> None:
    """Also packed, and as a folder of several files in the order of their names."""
    plain = write("one/a.jsonl", FULL)
    (tmp_path / "one" / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist([FULL]), tmp_path / "one" / "c.parquet")
    (tmp_path / "one" / "notes.txt").write_text("no data")
    suite = Suite.find(str(tmp_path / "one"))

    rows = list(suite.rows())

    assert len(rows) == 3
    assert len(set(rows)) == 1
    assert suite.name == "one"


@pytest.mark.parametrize("word", ["user", "prompt"])
def test_the_corpora_words_are_those_of_the_contracts(write: Write, word: str) -> None:
    """`user` is `prompt`, `tool_output` is `tool_result`."""
    assert usable(write("s.jsonl", row("a", surface=word)))[0].surface is Surface.PROMPT


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nonsense-7f3a", "JSON"),
        (b"[1]", "object"),
        (b'{"label": "benign"}', "`text`"),
        (b'{"text": 7, "label": "benign"}', "`text`"),
        (b'{"text": "secret-7f3a", "label": "nice"}', "injection"),
        (b'{"text": "secret-7f3a"}', "`label`"),
        (b'{"text": "secret-7f3a", "label": "benign", "surface": "moon"}', "tool_result"),
        (b'{"text": "secret-7f3a", "label": "benign", "group": 3}', "`group`"),
        (b'{"text": "a", "label": "benign", "source": "\\u001b[31m"}', "printable"),
        (b'{"text": "\xff", "label": "benign"}', "UTF-8"),
        (b'{"text": "\\ud800", "label": "benign"}', "JSON"),
        (b"[" * 5000, "JSON"),
        (b'{"text": "' + b"a" * (MAX_LINE_BYTES + 9) + b'", "label": "benign"}', "bytes"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_go_on(write: Write, line: bytes, words: str) -> None:
    """With file and line, and without its text."""
    path = write("s.jsonl", row("first"), line, b"", row("last"))

    (bad,) = rejected(path)

    assert bad.place == "s.jsonl:2"
    assert words in bad.reason
    assert "7f3a" not in bad.reason
    assert [each.text for each in usable(path)] == ["first", "last"]


def test_parquet_rows_are_checked_alike(tmp_path: Path) -> None:
    """A missing value, a wrong word, and a column of another type."""
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"], "label": ["benign", "benign", "odd"]}), path)
    numbers = tmp_path / "n.parquet"
    pq.write_table(pa.table({"text": [1], "label": ["benign"]}), numbers)

    assert [each.place for each in rejected(path)] == ["s.parquet:2", "s.parquet:3"]
    assert len(rejected(numbers)) == 1


@pytest.mark.parametrize("name", ["s.parquet", "s.jsonl.gz"])
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    """Bytes that are not of the format, or the first half of a file that is."""
    whole = tmp_path / "whole"
    pq.write_table(pa.Table.from_pylist([FULL] * 50), whole)
    data = whole.read_bytes() if name.endswith("parquet") else gzip.compress(b'{"text": "a", "label": "benign"}\n' * 99)
    for broken in (b"no such format", b"", data[: len(data) // 2]):
        (tmp_path / name).write_bytes(broken)
        suite = Suite.find(str(tmp_path / name))

        if name.endswith("gz") and not broken:
            # An empty file is what gzip takes for an empty archive.
            assert list(suite.rows()) == []
            continue
        with pytest.raises(InvalidInput, match=name):
            list(suite.rows())


def test_a_table_without_labels_is_an_error(tmp_path: Path) -> None:
    """The lacking column is named."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "s.parquet")

    with pytest.raises(InvalidInput, match="label"):
        list(Suite.find(str(tmp_path / "s.parquet")).rows())


def test_the_digest_of_one_file_is_what_sha256sum_says(write: Write) -> None:
    """So that anyone can check it; several files have that of their list."""
    path = write("d/a.jsonl", FULL)
    one = Suite.find(str(path)).digests()
    write("d/b.jsonl", FULL)
    both = Suite.find(str(path.parent)).digests()

    assert digest_of(one) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_of(both) != digest_of(one)
    assert [each.name for each in both] == ["a.jsonl", "b.jsonl"]


def test_named_suites_are_found_in_the_corpora(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """By option or by environment; a folder or a file."""
    write("dev/ood.jsonl", row("ood"))
    write("train/x.jsonl", row("train"))
    monkeypatch.setenv(CORPORA, str(tmp_path))

    assert [each.text for each in Suite.find("train").rows() if isinstance(each, Row)] == ["train"]
    assert [each.text for each in Suite.find("dev/ood", tmp_path).rows() if isinstance(each, Row)] == ["ood"]
    with pytest.raises(ConfigError, match="dev/indist"):
        Suite.find("dev/indist")


def test_without_corpora_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the option and the command."""
    monkeypatch.delenv(CORPORA, raising=False)

    with pytest.raises(ConfigError) as caught:
        Suite.find("dev/ood")

    assert "--corpora" in caught.value.hint
    assert CORPORA in caught.value.hint


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_a_path_without_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file that is not there, a folder with nothing in it."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Error):
        Suite.find(name)


def test_the_packaged_suite_is_sound() -> None:
    """Every kind of row on several surfaces, each a group of its own, none unusable."""
    rows = list(Suite.find("smoke").rows())

    kept = [each for each in rows if isinstance(each, Row)]
    assert len(kept) == len(rows) >= 40
    assert {each.label for each in kept} == set(Label)
    assert {each.surface for each in kept} >= {Surface.PROMPT, Surface.DOCUMENT, Surface.TOOL_RESULT, Surface.SYSTEM}
    assert len({each.group for each in kept}) == len({each.text for each in kept}) == len(kept)
    assert sum(each.label in ATTACKS for each in kept) == sum(each.label is Label.BENIGN for each in kept)


def test_parquet_without_its_reader_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON lines need nothing; Parquet needs the extra."""
    (tmp_path / "s.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingExtra, match="pyarrow") as caught:
        list(Suite.find(str(tmp_path / "s.parquet")).rows())

    assert caught.value.hint == "pip install 'shieldwall[lab]'"
