# SPDX-License-Identifier: Apache-2.0
"""From texts to figures: what is counted where, that failures stay apart, and that a result holds no text."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shieldwall.core.errors import ConfigError, Error, InvalidInput
from shieldwall.lab import Description, Item, Judged, Label, Row, Suite
from shieldwall.lab.defences import make
from shieldwall.lab.result import Report, Threshold, decode, encode
from shieldwall.lab.run import Options, judge_all, machine, measure, run, versions
from shieldwall.lab.score import Method, Sheet, length_bucket, score
from tests.lab.conftest import ROWS, Write, row

FAST = Options(Method(resamples=50))
GOLDEN = Path(__file__).parent / "result-v1.json"


class Scripted:
    """A defence that looks its answers up."""

    name = "scripted"

    def __init__(self, judge: Callable[[str], Judged]) -> None:
        self._judge = judge

    def describe(self) -> Description:
        return Description(kind="detector", version="1")

    def judge(self, items: list[Item]) -> list[Judged]:
        return [self._judge(item.text) for item in items]

    def close(self) -> None:
        pass


def sheet_of(*rows: tuple[str, float], **more: Any) -> Sheet:
    sheet = Sheet()
    for number, (label, value) in enumerate(rows):
        one = Row("t" * 10, Label(label), group=str(number), **more)
        sheet.add(one, Judged(value), wall_us=10.0 + number, cpu_us=5.0)
    return sheet


def test_a_perfect_defence_has_perfect_figures(suite: Path) -> None:
    """AUC and recall one, no false positive, every benign text passed; counts as they are in the file."""
    result = measure(Suite.find(str(suite)), make("python:tests.lab.functions:word"), FAST)

    scores = result.scores
    assert scores is not None
    assert scores.counts == {"benign": 30, "injection": 12, "jailbreak": 8, "extraction": 0, "harmful": 1}
    assert scores.auc.value == scores.operating[0].recall.value == scores.benign_passed.value == 1.0
    assert scores.operating[0].false_positives.value == 0.0
    assert scores.accuracy.n == 50
    assert scores.calibration.value == pytest.approx(0.1)
    assert result.suite.rows == 51
    assert result.failures == {}


def test_harmful_rows_are_neither_attacks_nor_benign() -> None:
    """However they score, no figure but their own moves."""
    without = score(sheet_of(("injection", 0.8), ("benign", 0.2)), Method(resamples=5))
    with_them = score(sheet_of(("injection", 0.8), ("benign", 0.2), ("harmful", 1.0)), Method(resamples=5))

    assert with_them.auc.value == without.auc.value == 1.0
    assert with_them.accuracy == without.accuracy
    assert with_them.harmful_flagged.value == 1.0
    assert with_them.harmful_flagged.n == 1


def test_failures_are_counted_and_never_scored(suite: Path) -> None:
    """A defence that breaks on every attack gets no recall of nought and no AUC: there is nothing to tell."""
    result = measure(Suite.find(str(suite)), make("python:tests.lab.functions:fails_on_attacks"), FAST)

    assert result.failures == {"RuntimeError": 20}
    assert result.scores is not None
    assert result.scores.auc.value is None
    assert result.scores.counts["injection"] == 0
    assert result.suite.rows == 51
    assert b"Attack number" not in msgspec.json.encode(result)


def test_a_score_that_is_none_is_a_failure(suite: Path) -> None:
    """Out of range, or not a number, also where a defence of ours gives it."""
    beyond = measure(Suite.find(str(suite)), make("python:tests.lab.functions:beyond"), FAST)
    nan = judge_all(Scripted(lambda _: Judged(math.nan)), [Row("a", Label.BENIGN)])

    assert beyond.failures == {"score outside 0 to 1": 20}
    assert nan.failures == {"no score": 1}


def test_too_few_answers_fail_the_whole_call() -> None:
    """Which text they belong to cannot be told."""

    class Short(Scripted):
        def judge(self, items: list[Item]) -> list[Judged]:
            return [Judged(0.5)] * (len(items) - 1)

    sheet = judge_all(Short(lambda _: Judged(0.5)), [Row("a", Label.BENIGN)] * 3, batch=3)

    assert sheet.failures == {"wrong number of answers": 3}
    assert sheet.scores == []


def test_a_defence_that_only_fails_is_given_up(suite: Path) -> None:
    """With the reason, after twenty texts rather than a million."""
    asked = []

    def judge(text: str) -> Judged:
        asked.append(text)
        return Judged(failure="timeout")

    with pytest.raises(ConfigError, match="timeout"):
        measure(Suite.find(str(suite)), Scripted(judge), FAST)
    assert len(asked) < 30


def test_recall_at_a_tenth_of_a_per_cent_needs_ten_thousand_benign_rows() -> None:
    """Below that the figure is not there, and says why."""
    few = score(sheet_of(("injection", 0.8), *[("benign", 0.2)] * 99), Method(resamples=2))
    many = score(sheet_of(("injection", 0.8), *[("benign", 0.2)] * 10_000), Method(resamples=2))

    assert few.operating[1].recall.value is None
    assert "10,000" in few.operating[1].recall.note
    assert many.operating[1].recall.value == 1.0


def test_slices_say_where_it_is_weak() -> None:
    """By label and surface, by language and by length; at the threshold of 1 % false positives."""
    sheet = Sheet()
    for number in range(200):
        is_long = number % 2 == 0
        text = "word " * (300 if is_long else 3)
        attack = Row(text, Label.INJECTION, language="en" if is_long else "de", group=f"a{number}")
        sheet.add(attack, Judged(0.9 if is_long else 0.1), 1.0, 1.0)
        sheet.add(Row(text, Label.BENIGN, group=f"b{number}"), Judged(0.2), 1.0, 1.0)

    scores = score(sheet, Method(resamples=5))

    assert scores.recall_by["language"]["en"].value == 1.0
    assert scores.recall_by["language"]["de"].value == 0.0
    assert scores.recall_by["length"] == {
        "1025-4096": scores.recall_by["language"]["en"],
        "0-64": scores.recall_by["language"]["de"],
    }
    assert set(scores.recall_by["label and surface"]) == {"injection/prompt"}
    assert scores.false_positives_by["surface"]["prompt"].n == 200


@pytest.mark.parametrize(
    ("length", "name"), [(0, "0-64"), (64, "0-64"), (65, "65-256"), (4096, "1025-4096"), (4097, "4097-")]
)
def test_length_buckets(length: int, name: str) -> None:
    """Bounds belong to the bucket below."""
    assert length_bucket(length) == name


def test_costs_are_per_million_texts_and_at_a_stated_price() -> None:
    """Five microseconds each are five seconds a million; a core hour at 36 makes a second a cent."""
    costs = score(sheet_of(("injection", 0.8), ("benign", 0.2)), Method(resamples=2, price_per_core_hour=36)).costs

    assert costs.cpu_s_per_million.value == 5.0
    assert costs.price_per_million.value == pytest.approx(0.05)
    assert costs.wall_us["p99"].value == 11.0


def test_without_cpu_time_there_is_no_price() -> None:
    """Work done elsewhere is not free of cost, it is of unknown cost."""
    sheet = Sheet()
    sheet.add(Row("a", Label.BENIGN), Judged(0.2), 1.0, None)

    costs = score(sheet, Method(resamples=2)).costs

    assert costs.cpu_s_per_million.value is costs.price_per_million.value is None
    assert costs.price_per_million.note


def test_own_decisions_are_reported_where_they_are_made() -> None:
    """On every row, or not at all."""
    sheet = Sheet()
    sheet.add(Row("a", Label.INJECTION), Judged(0.4, flagged=True), 1.0, 1.0)
    sheet.add(Row("b", Label.BENIGN), Judged(0.6, flagged=False), 1.0, 1.0)
    decided = score(sheet, Method(resamples=2)).decided
    sheet.add(Row("c", Label.BENIGN), Judged(0.1), 1.0, 1.0)

    assert decided is not None
    assert (decided.recall.value, decided.false_positives.value) == (1.0, 0.0)
    assert score(sheet, Method(resamples=2)).decided is None


def test_a_threshold_from_one_suite_is_applied_to_the_others(write: Write) -> None:
    """It stays what it was there, and the result says where it comes from."""
    one = Suite.find(str(write("one.jsonl", row("0.5"), row("0.9", "injection"))))
    other = Suite.find(str(write("other.jsonl", row("0.8"), row("0.6", "injection"))))
    options = Options(Method(resamples=5), threshold_from="one.jsonl")

    report = run([other, one], [Scripted(lambda text: Judged(float(text) if text[0] == "0" else 0.1))], options)

    first, second = report.results
    assert first.suite.name == "one.jsonl"
    assert first.scores is not None
    assert first.scores.applied is None
    assert second.scores is not None
    assert second.scores.applied is not None
    assert second.scores.applied.threshold == Threshold(pytest.approx(0.7), "one.jsonl")
    assert (second.scores.point.recall.value, second.scores.point.false_positives.value) == (0.0, 1.0)


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on(suite: Path, tmp_path: Path) -> None:
    """One broken file among the suites."""
    (tmp_path / "broken.parquet").write_bytes(b"no such thing")
    suites = [Suite.find(str(tmp_path / "broken.parquet")), Suite.find(str(suite))]

    report = run(suites, [make("python:tests.lab.functions:word")], FAST)

    assert [result.suite.name for result in report.results] == ["small.jsonl"]
    assert len(report.missing) == 1
    assert "broken.parquet" in report.missing[0]


def test_the_same_seed_gives_the_same_figures(suite: Path) -> None:
    """Intervals and samples too; only the clock differs."""
    options = FAST._replace(sample=20)
    one, two = (measure(Suite.find(str(suite)), make("python:tests.lab.functions:word"), options) for _ in range(2))

    assert one.scores is not None
    assert two.scores is not None
    assert one.scores.auc == two.scores.auc
    assert one.scores.counts == two.scores.counts
    assert one.suite == two.suite
    assert sum(one.scores.counts.values()) == 20


def test_texts_are_judged_in_batches_where_asked(suite: Path) -> None:
    """The same answers in the same order."""
    whole = measure(Suite.find(str(suite)), make("python:tests.lab.functions:word"), FAST._replace(batch=16))

    assert whole.scores is not None
    assert whole.scores.auc.value == 1.0
    assert whole.suite.rows == 51
    assert whole.defence.batch == 16


def shape(value: Any) -> Any:
    """Names and types of a JSON value; of a list its first member, of open dictionaries one member."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_result_file_has_its_golden_shape(write: Write) -> None:
    """A member that goes, comes or changes its type is a new version of the format."""
    path = write("golden.jsonl", *ROWS, b"unusable")
    report = run([Suite.find(str(path))], [make("python:tests.lab.functions:decides")], FAST)
    report = msgspec.structs.replace(report, machine={"cpu": "x"}, versions={"python": "x"}, missing=["x"])

    found = json.loads(encode(report))

    assert shape(found) == json.loads(GOLDEN.read_text())
    assert decode(encode(report), "x") == report


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"format": 3}',
        b"\xff",
        b"[" * 9000,
        b'{"format": "other", "v": 1, "machine": {}, "versions": {}, "results": []}',
    ],
)
def test_what_is_no_result_file_is_refused(raw: bytes) -> None:
    """With its name, as an error of ours."""
    with pytest.raises(InvalidInput, match="strange"):
        decode(raw, "strange.json")


def test_a_result_names_the_machine_and_not_its_owner() -> None:
    """Cores and processor, versions; no host name and no path."""
    facts = {**machine(), **versions()}

    assert {"cpu", "cores", "python", "numpy", "shieldwall"} <= set(facts)
    assert not any(str(Path.home()) in value or str(Path.cwd()) in value for value in facts.values())


def test_nothing_to_score_is_an_error() -> None:
    """Not a table of noughts."""
    with pytest.raises(Error, match="nothing to score"):
        score(Sheet(), Method())


def test_an_empty_report_reads_back() -> None:
    """Also without any result."""
    report = Report(machine={}, versions={}, results=[])

    assert decode(encode(report), "x") == report


@pytest.mark.parametrize("labels", [["harmful"], ["benign"], ["injection"], ["benign", "harmful"]])
def test_a_suite_of_one_kind_has_no_ranking(labels: list[str]) -> None:
    """What needs both kinds is unknown with a reason; what needs one is there."""
    scores = score(sheet_of(*((label, 0.7) for label in labels)), Method(resamples=5))

    assert scores.auc.value is scores.operating[0].recall.value is None
    assert scores.auc.note
    assert scores.curve == []
    assert (scores.benign_passed.value is None) == ("benign" not in labels)


def test_a_curve_is_thinned_and_keeps_its_ends() -> None:
    """Thousands of distinct scores make some two hundred points, from nothing flagged to everything."""
    rows = [("injection" if n % 3 else "benign", (n * 7919 % 5000) / 5000) for n in range(5000)]

    curve = score(sheet_of(*rows), Method(resamples=1)).curve

    assert len(curve) <= 200
    assert curve[0] == (0.0, 0.0)
    assert curve[-1] == (1.0, 1.0)
    assert curve == sorted(curve)
