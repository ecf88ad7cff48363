# SPDX-License-Identifier: Apache-2.0
"""Everything a training run learns from, put together once and kept in one file.

The parts are those of `mixture`. The file is written beside the run's other results, so that a run that is interrupted
goes on with the same texts, and anybody can look at what was learnt from.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from shieldwall.core.errors import ConfigError
from shieldwall.lab.extras import missing
from shieldwall.lab.mixture import Sample, disguised, joined, load_phrases, made, public
from shieldwall.lab.plans import PoolPlan
from shieldwall.lab.suite import Row

__all__ = ["PARTS", "Pool", "assemble", "read_pool", "write_pool"]

PARTS = {"public": 0.42, "made": 0.42, "joined": 0.16}
"""Share of the draws of each part."""


Pool = dict[str, list[Sample]]
"""Samples by part."""


def assemble(rows: Iterable[Row], plan: PoolPlan) -> Pool:
    """All parts, some of their texts disguised.

    Args:
        rows: Rows of public corpora.
        plan: What to put together.

    Raises:
        ConfigError: There is no benign document among the rows, into which attacks could be put.
    """
    phrases = load_phrases()
    real = public([row._asdict() for row in rows], unlicensed=plan.unlicensed)
    hosts = [each for each in real if each.label == "benign" and each.surface in {"document", "tool_result"}]
    if not hosts:
        raise ConfigError(
            "the corpora hold no benign document or tool result", hint="name a corpora directory with --corpora"
        )
    parts = {
        "public": real,
        "made": made(phrases, plan.made, plan.seed),
        "joined": joined(phrases, hosts, plan.joined, plan.seed + 1),
    }
    return {name: disguised(samples, plan.seed + 2) for name, samples in parts.items()}


def write_pool(pool: Pool, path: Path) -> None:
    """Keep a pool as Parquet. Raises MissingExtra where pyarrow is not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise missing("training", error, "train") from None
    columns = {
        field: [getattr(sample, field) for samples in pool.values() for sample in samples] for field in Sample._fields
    }
    columns["part"] = [part for part, samples in pool.items() for _ in samples]
    draft = path.with_suffix(".new")
    parquet.write_table(pa.table(columns), draft, compression="zstd")
    draft.replace(path)


def read_pool(path: Path) -> Pool:
    """Read it again.

    Raises:
        ConfigError: The file cannot be read. MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise missing("training", error, "train") from None
    pool: Pool = {}
    try:
        with parquet.ParquetFile(path) as file:
            for row in file.read().to_pylist():
                pool.setdefault(row.pop("part"), []).append(Sample(**row))
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{path.name} is no pool of a training run", hint="remove it: it is made anew") from None
    return pool


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """How many samples each label has."""
    return dict(Counter(sample.label for sample in samples).most_common())
