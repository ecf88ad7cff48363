# SPDX-License-Identifier: Apache-2.0
"""Sketches: how many known attacks they find again, what they find wrongly, and what a look-up costs at a million.

Known are the attacks of train (jailbreak, injection, extraction) of at least 12 words. Left out are rows that were
composed of an attack and a harmless carrier, and those of BIPIA, whose attacks are ordinary tasks in harmless pages: as
templates they are mostly harmless text. Before a text is learnt, the canaries are asked, as the exchange does. Each is
then sent again in disguise; found is what gives any match, as families of attacks stand in for each other.

False matches are counted on all harmless rows of train with all of that learnt. The million is made up: runs of values
of the attacks, a fifth exchanged; then the attacks themselves are inserted and timed. Look-ups are CPU time of the
thread, each query once, so that caches are as cold as they would be. The corpora are looked for in SHIELDWALL_CORPORA,
or in shared/corpora beside the checkout.
"""

import argparse
import gc
import os
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench import report
from bench.detect.disguise import DISGUISES, changed
from bench.gateway import stage
from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.core.sketch import KEPT, Meaning, Sketch, Sketcher, derive_key
from shieldwall.core.sketcher import make_sketcher
from shieldwall.core.verdict import Category
from shieldwall.detect import signature_file
from shieldwall.detect.canaries import CanarySet, load_common
from shieldwall.detect.signatures import SignatureIndex

CORPORA: Final = Path(
    os.environ.get("SHIELDWALL_CORPORA") or Path(__file__).resolve().parents[3] / "shared" / "corpora"
)
RECALL: Final = {name: report.Target(at_least=0.95 if name.startswith("30") else 0.99) for name in list(DISGUISES)[:-1]}
FALSE: Final = report.Target(at_most=1e-4)
LOOKUP_US: Final = report.Target(at_most=40)
WORST_US: Final = report.Target(at_most=1000)
_WORDS: Final = 12
_PAGE: Final = 20_000
_BATCH: Final = 20_000
_RUN: Final = 70
_LAST: Final = (1 << 64) - 1
_GAME: Final = "HumanCompatibleAI/tensor-trust-data"
"""Harmless by label are the defences of a game, many of which quote the attacks of the same game word by word."""


class Row(NamedTuple):
    """A row of the corpora."""

    text: str
    source: str
    licence: str


def read(part: str, label: str) -> list[Row]:
    """Rows with a label.

    Raises:
        BenchError: The corpora are not there, or pyarrow is not.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise report.BenchError("pyarrow is not installed: no figure of this benchmark can be measured") from None
    file = CORPORA / part
    if not file.exists():
        raise report.BenchError(
            f"no corpora at {CORPORA} (set SHIELDWALL_CORPORA): recall in disguise, false matches, look-up and insert"
            " at a million, bytes per sketch and sketching cost cannot be measured"
        )
    table = pyarrow.parquet.read_table(file, columns=["text", "source", "licence", "label"]).to_pylist()
    return [Row(row["text"], row["source"], row["licence"]) for row in table if row["label"] == label]


def attacks() -> list[Row]:
    """What is to be known."""
    rows = [row for label in ("jailbreak", "injection", "extraction") for row in read(f"train/{label}.parquet", label)]
    return [
        row
        for row in rows
        if len(row.text.split()) >= _WORDS and not row.source.startswith("compose") and row.source != "microsoft/BIPIA"
    ]


def learn(rows: Sequence[Row], sketcher: Sketcher, canaries: CanarySet) -> tuple[SignatureIndex, list[bool], list[int]]:
    """Index of the attacks; whether each was learnt; how many the canaries vetoed and how many say too little."""
    index = SignatureIndex(sketcher.key.id)
    learnt, refused = [], [0, 0]
    for number, row in enumerate(rows):
        sketch = sketcher.sketch(row.text)
        if canaries.hits(sketch):
            refused[0] += 1
            learnt.append(False)
            continue
        try:
            index.insert(sketch, meaning(number))
        except InvalidInput:
            refused[1] += 1
            learnt.append(False)
            continue
        learnt.append(True)
    return index, learnt, refused


def meaning(number: int) -> Meaning:
    """As long as real ones are."""
    return Meaning(id=f"indicator--{number:032x}", category=Category.JAILBREAK, technique="AML.T0054", score=0.9)


def recall(rows: Sequence[Row], others: Sequence[str], options: argparse.Namespace) -> list[report.Figure]:
    """What is found again, and how often harmless text is taken for it."""
    sketcher = make_sketcher(derive_key(bytes(32), 0), load_common())
    canaries = CanarySet(sketcher.key)
    index, learnt, refused = learn(rows, sketcher, canaries)
    figures = []
    for name, disguise in DISGUISES.items():
        shares, wholes = [], []
        for turn in range(options.rounds):
            chance = random.Random(f"{turn} {name}")
            found = [bool(index.match(sketcher.sketch(disguise(row.text, others, chance)))) for row in rows]
            shares.append(sum(hit for hit, was in zip(found, learnt, strict=True) if was) / sum(learnt))
            wholes.append(sum(found) / len(rows))
        note = "of what was learnt; the lines 'of all' count what was vetoed or is too short as well"
        figures.append(report.Figure(f"found again: {name}", "share", shares, RECALL.get(name), note))
        figures.append(report.Figure(f"found again: {name}, of all", "share", wholes))
    figures += [
        report.Figure("attacks of at least 12 words", "", [float(len(rows))]),
        report.Figure("of them vetoed by canaries", "share", [refused[0] / len(rows)]),
        report.Figure("of them too short", "share", [refused[1] / len(rows)]),
    ]
    harmless = read("train/benign.parquet", "benign")
    unseen = read("dev/ood.parquet", "benign")
    hits = [bool(index.match(sketcher.sketch(row.text))) for row in harmless]
    missed = sum(hit for hit, row in zip(hits, harmless, strict=True) if row.source == _GAME)
    games = sum(row.source == _GAME for row in harmless)
    note = f"{missed} of {sum(hits)} false matches are defences of the game {_GAME}, which quote its attacks"
    dev = sum(bool(index.match(sketcher.sketch(row.text))) for row in unseen) / len(unseen)
    return [
        *figures,
        report.Figure("false matches, harmless train", "share", [sum(hits) / len(hits)], FALSE, note),
        report.Figure(
            "false matches, the same without the game", "share", [(sum(hits) - missed) / (len(hits) - games)], FALSE
        ),
        report.Figure("false matches, harmless dev of other sources", "share", [dev], None, "nothing was tuned to it"),
    ]


def million(
    rows: Sequence[Row], harmless: Sequence[Row], others: Sequence[str], options: argparse.Namespace
) -> list[report.Figure]:
    """What it costs to hold many, and to look one up among them."""
    sketcher = make_sketcher(derive_key(bytes(32), 0), load_common())
    chance = random.Random(1)
    known = [sketcher.sketch(row.text) for row in rows]
    file = signature_file.encode(sketcher.key.id, made_up(known, options.held))
    before = stage.resident_bytes(os.getpid())
    start = time.thread_time()
    index = SignatureIndex.restore(file, sketcher.key.id, capacity=options.held + options.held // 10 + 50_000)
    loaded = time.thread_time() - start
    grown = stage.resident_bytes(os.getpid()) - before
    held = len(index)
    state = index.state_bytes
    # A collection in the middle of an insert would look at a million meanings; a node freezes them likewise.
    gc.collect()
    gc.disable()
    inserts = insert_us(index, known)
    queries = [sketcher.sketch(row.text) for row in chance.sample(list(harmless), min(options.queries, len(harmless)))]
    attacked = chance.sample(known, min(options.queries // 10, len(known)))
    pages = [sketcher.sketch(page(harmless, rows, chance)) for _ in range(options.queries // 50)]
    plain, again, long = (timed(index, sketches) for sketches in (queries, attacked, pages))
    gc.enable()
    # The harsh case: hundreds of others hold parts of each text, and all of them want to stand under the same values.
    changes = [changed(row.text, others, chance, 0.3) for row in chance.sample(list(rows), 2000)]
    crowded = sum(bool(index.match(sketcher.sketch(text))) for text in changes) / len(changes)
    return [
        report.Figure("found again among these: 30 % of words changed, of all", "share", [crowded]),
        report.Figure("look-up, harmless train, p50", "us", [statistics.median(plain)], LOOKUP_US),
        report.Figure("look-up, harmless train, p99", "us", [report.percentile(plain, 0.99)]),
        report.Figure("look-up, known attacks, p50", "us", [statistics.median(again)]),
        report.Figure("look-up, pages of 20,000 characters with an attack, p50", "us", [statistics.median(long)]),
        report.Figure("look-up, the worst of all these", "us", [max(plain + again + long)], WORST_US),
        report.Figure("insert until live, p50", "us", [statistics.median(inserts)]),
        report.Figure("insert until live, worst", "us", [max(inserts)]),
        report.Figure("sketches held", "", [float(held)]),
        report.Figure("state per sketch", "bytes", [state / held]),
        report.Figure("resident per sketch", "bytes", [grown / held]),
        report.Figure("reading the file of all of them", "s", [loaded]),
    ]


def made_up(known: Sequence[Sketch], count: int) -> signature_file.Held:
    """As many texts of one piece: three runs of 70 places of the known ones each, a fifth exchanged in runs of ten."""
    import numpy as np

    chance = np.random.default_rng(2)
    every = np.concatenate([np.frombuffer(sketch.values, np.uint64) for sketch in known])
    counts, values = [], []
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        starts = chance.integers(0, len(every) - _RUN, (size, 3))
        lines = every[starts[:, :, None] + np.arange(_RUN)].reshape(size, -1)
        new = np.repeat(chance.random((size, lines.shape[1] // 10)) < 0.2, 10, axis=1)
        lines[new] = chance.integers(1, _LAST, int(new.sum()), np.uint64)
        # What is common and what comes twice goes to the end, so that the smallest of a line are what a sketch keeps.
        lines[lines == 0] = _LAST
        lines.sort(axis=1)
        lines[:, 1:][lines[:, 1:] == lines[:, :-1]] = _LAST
        lines.sort(axis=1)
        kept = lines[:, :KEPT]
        counts.append((kept != _LAST).sum(axis=1).astype(np.uint8))
        values.append(kept[kept != _LAST].astype(np.uint32))
    return signature_file.Held(
        digests=chance.integers(1, 1 << 63, count, np.uint64),
        meanings=[msgspec.json.encode(meaning(number)) for number in range(count)],
        owners=np.arange(count, dtype=np.uint32),
        counts=np.concatenate(counts),
        places=np.full(count, 3 * _RUN, np.uint16),
        values=np.concatenate(values),
    )


def insert_us(index: SignatureIndex, sketches: Iterable[Sketch]) -> list[float]:
    """CPU time of each insert, microseconds, cutting into pieces included."""
    times = []
    for number, sketch in enumerate(sketches):
        start = time.thread_time_ns()
        try:
            index.insert(sketch, meaning(number))
        except LimitExceeded:
            raise report.BenchError(f"the index is full at {len(index):,} sketches") from None
        except InvalidInput:
            continue
        times.append((time.thread_time_ns() - start) / 1000)
    return times


def page(harmless: Sequence[Row], rows: Sequence[Row], chance: random.Random) -> str:
    """A page of harmless text with an attack in it."""
    parts, size = [chance.choice(rows).text], 0
    while size < _PAGE:
        parts.append(chance.choice(harmless).text)
        size += len(parts[-1])
    chance.shuffle(parts)
    return "\n".join(parts)[:_PAGE]


def timed(index: SignatureIndex, sketches: Iterable[Sketch]) -> list[float]:
    """CPU time of each look-up, microseconds."""
    times = []
    for sketch in sketches:
        start = time.thread_time_ns()
        index.match(sketch)
        times.append((time.thread_time_ns() - start) / 1000)
    return times


def sketching(harmless: Sequence[Row], options: argparse.Namespace) -> list[report.Figure]:
    """What a sketch costs."""
    sketcher = make_sketcher(derive_key(bytes(32), 0), load_common())
    texts = [row.text for row in harmless if 500 <= len(row.text) <= 2000 and row.text.isascii()][:2000]
    sketcher.sketch(texts[0])
    costs = []
    for _ in range(options.rounds):
        start = time.thread_time_ns()
        for text in texts:
            sketcher.sketch(text)
        costs.append((time.thread_time_ns() - start) / sum(map(len, texts)))
    return [report.Figure("sketching, texts of 0.5 to 2 KB", "us per KB", costs)]


def run(options: argparse.Namespace) -> report.Report:
    """Measure in this process."""
    stage.pin()
    rows, harmless = attacks(), read("train/benign.parquet", "benign")
    chance = random.Random(0)
    others = [word for row in chance.sample(harmless, 3000) for word in row.text.split()]
    figures = sketching(harmless, options) + recall(rows, others, options) + million(rows, harmless, others, options)
    return report.report("sketches", figures, report.versions(("numpy", "numba", "pyarrow")), "detect")


def main(argv: list[str] | None = None) -> int:
    """Measure sketches and print what they find and cost."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.detect.sketches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each disguise (default: 1)")
    parser.add_argument("--held", type=int, default=1_000_000, help="sketches held (default: 1,000,000)")
    parser.add_argument("--queries", type=int, default=5000, help="harmless texts looked up (default: 5000)")
    parser.add_argument("--json", type=Path, help="also write the report here")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
