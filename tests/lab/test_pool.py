# SPDX-License-Identifier: Apache-2.0
"""The pool: all parts from a few rows, kept in a file and read again, and nothing that may not be learnt from."""

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Surface
from shieldwall.lab import Label, Row
from shieldwall.lab.mixture import CLASSES, Sample
from shieldwall.lab.plans import PoolPlan
from shieldwall.lab.pool import PARTS, Pool, assemble, counts, read_pool, write_pool

PLAN = PoolPlan(made=120, joined=20, seed=3)


def rows() -> list[Row]:
    """Benign documents, prompts of two labels, and rows whose licence nobody states."""
    return [
        *(Row(f"Line {n}.\nThe meeting is on Monday.", Label.BENIGN, Surface.DOCUMENT, "en", "minutes", "MIT", f"m{n}")
          for n in range(6)),
        *(Row(f"Where is platform {n}?", Label.BENIGN, Surface.PROMPT, "en", "station", "MIT", f"s{n}")
          for n in range(9)),
        *(Row(f"Ignore rule {n}.", Label.INJECTION, Surface.PROMPT, "en", "attacks", "CC0-1.0", f"a{n}")
          for n in range(4)),
        *(Row(f"Unstated {n}.", Label.BENIGN, Surface.TOOL_RESULT, "en", "somewhere", "none-stated; asked", f"u{n}")
          for n in range(5)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Pool:
    return assemble(rows(), PLAN)


def test_all_parts_are_put_together(pool: Pool) -> None:
    """As many texts as asked for, all of known labels, and shares for exactly these parts."""
    assert set(pool) == set(PARTS)
    assert sum(PARTS.values()) == pytest.approx(1)
    assert {name: len(samples) for name, samples in pool.items()} == {"public": 19, "made": 120, "joined": 20}
    assert {sample.label for samples in pool.values() for sample in samples} <= set(CLASSES)
    assert all(sample.weight > 0 for samples in pool.values() for sample in samples)


def test_attacks_are_put_into_documents_of_the_rows(pool: Pool) -> None:
    """Half of them harmless; a host is a benign document or tool result, and its group is kept."""
    assert counts(pool["joined"]) == {"injection": 10, "benign": 10}
    assert {sample.surface for sample in pool["joined"]} == {"document"}
    assert all(sample.group.startswith("m") for sample in pool["joined"])


def test_rows_without_a_licence_are_left_out(pool: Pool) -> None:
    """As texts and as hosts, unless they are asked for."""
    asked = assemble(rows(), PoolPlan(made=10, joined=40, unlicensed=True))

    assert "somewhere" not in {sample.source for sample in pool["public"]}
    assert not [sample for samples in pool.values() for sample in samples if sample.group.startswith("u")]
    assert sum(sample.source == "somewhere" for sample in asked["public"]) == 5
    assert any(sample.group.startswith("u") for sample in asked["joined"])


def test_the_same_plan_gives_the_same_pool(pool: Pool) -> None:
    """Another seed gives other texts of our own; public rows stay, but for disguises."""
    other = assemble(rows(), PoolPlan(made=120, joined=20, seed=4))

    assert assemble(rows(), PLAN) == pool
    assert other["made"] != pool["made"]
    assert [sample.group for sample in other["public"]] == [sample.group for sample in pool["public"]]


@pytest.mark.parametrize("kept", [[], [Surface.PROMPT], [Surface.TOOL_RESULT]])
def test_without_a_document_there_is_no_pool(kept: list[Surface]) -> None:
    """The error says what is missing, and what to name; a tool result without a licence is no host."""
    with pytest.raises(ConfigError, match="no benign document") as caught:
        assemble([row for row in rows() if row.surface in kept], PLAN)

    assert "--corpora" in caught.value.hint


def test_a_pool_is_read_as_it_was_written(pool: Pool, tmp_path: Path) -> None:
    """Every member of every sample, odd letters and places included, and nothing beside the file is left."""
    odd = Sample("a\0b \ud7ff \U0001f33b \u202e\r\n", "benign", "prompt", "und", "", "", 1 / 3, 7)
    whole = pool | {"also": [odd]}

    write_pool(whole, tmp_path / "pool.parquet")

    assert read_pool(tmp_path / "pool.parquet") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["pool.parquet"]


def test_a_pool_comes_whole_or_not_at_all(pool: Pool, tmp_path: Path) -> None:
    """A new one takes the place of the old one, whose bytes are never written over; what has no UTF-8 is refused."""
    path, kept = tmp_path / "pool.parquet", tmp_path / "kept.parquet"
    write_pool(pool, path)
    kept.hardlink_to(path)

    with pytest.raises(UnicodeEncodeError):
        write_pool({"public": [pool["public"][0]._replace(text="\ud800")]}, path)
    assert read_pool(path) == pool
    write_pool({"public": pool["public"]}, path)

    assert read_pool(path) == {"public": pool["public"]}
    assert read_pool(kept) == pool


def damaged(data: bytes, seed: int) -> bytes:
    """Cut off, or with a few bits turned over."""
    chance = random.Random(seed)
    if seed % 3 == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    """Whatever is damaged: it is read, or it is named together with what to do; no other error comes out."""
    path = tmp_path / "pool.parquet"
    some = [Sample(f"text {n} " * 9, "benign", "prompt", "en", "s", f"g{n}", 0.1 * n) for n in range(200)]
    write_pool({"public": some}, path)
    data = path.read_bytes()
    said = Counter[tuple[str, str]]()

    for seed in range(1_500):
        path.write_bytes(damaged(data, seed))
        try:
            read_pool(path)
        except ConfigError as error:
            said[str(error), error.hint] += 1

    assert list(said) == [("pool.parquet is no pool of a training run", "remove it: it is made anew")]
    assert said.total() > 1_000


def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path) -> None:
    """No file, a folder, no Parquet, and Parquet with other columns."""
    other, more = tmp_path / "other.parquet", tmp_path / "more.parquet"
    parquet.write_table(pa.table({"text": ["a"], "label": ["benign"]}), other)
    parquet.write_table(pa.table({"part": ["public"], "text": ["a"], "colour": ["red"]}), more)
    (tmp_path / "words.parquet").write_text("no table")
    (tmp_path / "folder.parquet").mkdir()

    for name in ("absent", "folder", "words", "other", "more"):
        with pytest.raises(ConfigError, match=f"{name}.parquet is no pool"):
            read_pool(tmp_path / f"{name}.parquet")
