# SPDX-License-Identifier: Apache-2.0
"""The table in its three forms: what may be compared, what is shown, and that names from a file can do no harm."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from shieldwall.lab import Suite
from shieldwall.lab.defences import make
from shieldwall.lab.league import entries, parts, plain, show
from shieldwall.lab.page import page
from shieldwall.lab.result import Report
from shieldwall.lab.run import Options, run
from shieldwall.lab.score import Method
from tests.lab.conftest import Write, row

HOSTILE = "<script>alert(1)</script>\x1b[31m\"'$x_1$ & _hidden\u202e"


@pytest.fixture
def report(suite: Path) -> Report:
    defences = [make(f"python:tests.lab.functions:{name}") for name in ("decides", "word")]
    return run([Suite.find(str(suite))], defences, Options(Method(resamples=20)))


def hostile(report: Report) -> Report:
    """The same with a defence, a suite and a source that are named by an enemy."""
    result = report.results[0]
    assert result.scores is not None
    by = {
        "source": {HOSTILE: result.scores.auc},
        HOSTILE: {HOSTILE: result.scores.auc},
        "label": {HOSTILE: result.scores.auc},
    }
    scores = msgspec.structs.replace(
        result.scores, recall_by=by, auc=msgspec.structs.replace(result.scores.auc, note=HOSTILE)
    )
    description = msgspec.structs.replace(result.defence.description, version=HOSTILE)
    defence = msgspec.structs.replace(result.defence, name=HOSTILE, description=description)
    named = msgspec.structs.replace(result.suite, name=HOSTILE, digest=HOSTILE)
    result = msgspec.structs.replace(result, defence=defence, suite=named, scores=scores, time=HOSTILE)
    return Report(machine={HOSTILE: HOSTILE}, versions={}, results=[result], missing=[HOSTILE])


def test_the_best_stands_first(report: Report) -> None:
    """By AUC within the same data."""
    league = entries([report])

    aucs = [entry.auc.value or 0 for entry in league.entries]
    assert aucs == sorted(aucs, reverse=True)
    assert len(parts(league.entries)) == 1


def test_other_data_under_the_same_name_is_not_compared(report: Report, write: Write) -> None:
    """The digest decides, not the name."""
    other = write("elsewhere/small.jsonl", row("Attack", "injection"), row("Good day"))
    more = run([Suite.find(str(other))], [make("python:tests.lab.functions:word")], Options(Method(resamples=5)))

    found = parts(entries([report, more]).entries)

    assert sorted(len(part) for part in found) == [1, 2]
    assert {part[0].suite for part in found} == {"small.jsonl"}


def test_the_terminal_shows_figures_and_what_is_missing(report: Report) -> None:
    """One line each, intervals in brackets, and nothing a terminal would act on."""
    shown = show(entries([report, hostile(report)]))

    assert "python:tests.lab.functions:word" in shown
    assert re.search(r"1\.000 \[[\d.]+, 1\.000\]", shown)
    assert "not measured" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_names_are_bounded_and_printable() -> None:
    """Long ones end in an ellipsis."""
    assert plain("a" * 100) == "a" * 59 + "\u2026"
    assert plain("a\nb\x00c") == "a\u00b7b\u00b7c"


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href"}:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def test_the_page_stands_alone_and_takes_no_orders_from_a_file(report: Report) -> None:
    """No script, no handler, nothing loaded, every id once; names are shown as they are written."""
    text = page([report, hostile(report)])
    reader = Reader()
    reader.feed(text)

    assert "script" not in reader.tags
    assert reader.handlers == []
    assert all(link.startswith("#") for link in reader.links)
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("svg") == 6
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\x1b" not in text
    assert "default-src 'none'" in text


def test_the_page_has_the_colours_of_the_reader(report: Report) -> None:
    """Plots take them from the page: no placeholder is left, and both schemes are defined."""
    text = page([report])

    assert "prefers-color-scheme: dark" in text
    assert "var(--series-1)" in text
    assert not re.search(r"#0[123]00[0-9a-f]{2}|#010101|#020202", text)


def test_the_page_is_the_same_every_time(report: Report) -> None:
    """No date of drawing and no chance in it."""
    assert page([report]) == page([report])


def test_a_page_without_results_says_so() -> None:
    """And what could not be measured."""
    text = page([Report(machine={}, versions={}, results=[], missing=["suite x: gone"])])

    assert "No result" in text
    assert "suite x: gone" in text


def test_no_form_holds_a_text_of_a_row(report: Report) -> None:
    """Names and numbers only."""
    for form in (page([report]), show(entries([report])), str(msgspec.json.encode(entries([report])))):
        assert "Attack number" not in form
        assert "platform" not in form
