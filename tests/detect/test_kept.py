# SPDX-License-Identifier: Apache-2.0
"""What is kept between runs saves time and is never believed blindly."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shieldwall.detect import hyperscan_matcher
from shieldwall.detect.hyperscan_matcher import HyperscanMatcher
from shieldwall.detect.kept import fetch, keep
from shieldwall.detect.phrase import SKELETON, compile_phrase, parse

PATTERNS = [compile_phrase(parse("open ..2 gate")), compile_phrase(parse("shut the door"))]
TEXT = b"\0" + b"please open the old gate".translate(SKELETON) + b"\0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "shieldwall"


def test_what_was_kept_is_there_again(cache: Path) -> None:
    """Under its name, readable by its owner only."""
    keep("a.bin", b"content")

    assert fetch("a.bin") == b"content"
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:40] + b"x" + data[41:], lambda _: b""])
def test_a_damaged_file_is_nothing(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """Cut, changed or empty: the work is done again."""
    keep("a.bin", b"content" * 10)
    path = cache / "a.bin"
    path.write_bytes(damage(path.read_bytes()))

    assert fetch("a.bin") is None


def test_what_others_could_have_written_is_not_read(cache: Path) -> None:
    """The file is handed to native code: a directory that others may write to is not trusted, and not written to."""
    keep("a.bin", b"content")
    cache.chmod(0o777)

    keep("b.bin", b"content")

    assert fetch("a.bin") is None
    assert not (cache / "b.bin").exists()


def test_a_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    """What stands elsewhere was not kept here."""
    keep("a.bin", b"content")
    (tmp_path / "elsewhere").write_bytes((cache / "a.bin").read_bytes())
    (cache / "a.bin").unlink()
    (cache / "a.bin").symlink_to(tmp_path / "elsewhere")

    assert fetch("a.bin") is None


def test_only_so_many_files_stay(cache: Path) -> None:
    """Each change of a rule set leaves one; the oldest go."""
    for number in range(40):
        keep(f"{number}.bin", b"x")
        os.utime(cache / f"{number}.bin", (number, number))

    assert len(list(cache.iterdir())) <= 33
    assert fetch("39.bin") == b"x"


def test_a_kept_automaton_answers_as_a_new_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second matcher compiles nothing, and finds the same."""
    first = HyperscanMatcher(PATTERNS)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled although it was kept")

    monkeypatch.setattr(hyperscan_matcher, "keep", refuse)
    second = HyperscanMatcher(PATTERNS)

    assert list(second.which(TEXT)) == list(first.which(TEXT)) == [0]
    assert len(list(cache.iterdir())) == 1


def test_a_foreign_automaton_is_made_anew(cache: Path) -> None:
    """Whole by its digest, but no database: it is compiled again and replaced."""
    HyperscanMatcher(PATTERNS)
    (path,) = cache.iterdir()
    keep(path.name, b"no database of this engine")

    assert list(HyperscanMatcher(PATTERNS).which(TEXT)) == [0]
    assert fetch(path.name) != b"no database of this engine"


def test_without_a_place_to_keep_it_all_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only home is no error."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")

    assert list(HyperscanMatcher(PATTERNS).which(TEXT)) == [0]


def test_what_is_no_file_is_nothing(cache: Path) -> None:
    """A directory or a pipe in its place: not read, and never waited for."""
    keep("a.bin", b"content")
    (cache / "b.bin").mkdir()
    os.mkfifo(cache / "c.bin", 0o600)

    assert fetch("b.bin") is None
    assert fetch("c.bin") is None


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory is no error."""

    def homeless() -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)

    keep("a.bin", b"content")

    assert fetch("a.bin") is None
