# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab` as a person uses it: results on standard output, exit codes that a script can rely on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shieldwall.lab.suite import CORPORA
from tests.lab.conftest import Write, row

Lab = Callable[..., tuple[int, str, str]]
WORD = "python:tests.lab.functions:word"
QUICK = ("--resamples", "20")


def test_the_packaged_suite_runs_without_any_data(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing a person types."""
    monkeypatch.delenv(CORPORA, raising=False)

    code, out, _ = lab("run", "--suite", "smoke", "--defence", "rules", *QUICK)

    assert code == 0
    assert out.startswith("smoke (SHA-256 ")
    assert "\nrules " in out


def test_results_are_kept_and_compared(lab: Lab, suite: Path, tmp_path: Path) -> None:
    """`--out` writes them, `compare` reads them; as a table, an object and a page."""
    one, two, page = tmp_path / "one.json", tmp_path / "two.json", tmp_path / "league.html"
    lab("run", "--suite", str(suite), "--defence", WORD, "--out", str(one), *QUICK)
    lab("run", "--suite", str(suite), "--defence", "rules", "--out", str(two), *QUICK)

    code, out, _ = lab("compare", "--json", "--html", str(page), str(one), str(two))

    assert code == 0
    assert [entry["defence"] for entry in json.loads(out)["entries"]] == [WORD, "rules"]
    assert page.read_text().count("<svg") == 3
    assert "Attack number" not in out + page.read_text() + one.read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--min-auc", "0.99"), 0),
        (("--min-recall", "0.9", "--max-fpr", "0.01"), 0),
        (("--threshold", "0.05", "--max-fpr", "0.01"), 1),
        (("--threshold", "0.95", "--min-recall", "0.5"), 1),
    ],
)
def test_an_expectation_decides_the_exit_code(lab: Lab, suite: Path, options: tuple[str, ...], expected: int) -> None:
    """What was missed is said in words."""
    code, _, err = lab("run", "--suite", str(suite), "--defence", WORD, *options, *QUICK)

    assert code == expected
    assert ("missed" in err) == bool(expected)


def test_what_cannot_be_measured_is_named_and_the_exit_code_says_so(
    lab: Lab, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite without its data, a defence that is not there; the rest is measured."""
    monkeypatch.delenv(CORPORA, raising=False)

    asked = ("--suite", "dev/ood", "--suite", str(suite), "--defence", WORD, "--defence", "nonsense")
    code, out, err = lab("run", *asked, *QUICK)

    assert code == 2
    assert WORD in out
    assert "not measured: suite dev/ood needs the corpora" in out
    assert "there is no defence nonsense" in err
    assert CORPORA in err


@pytest.mark.parametrize("name", ["fails_on_attacks", "hopeless"])
def test_a_failing_defence_is_no_clean_run(lab: Lab, suite: Path, name: str) -> None:
    """Texts that were not judged could be anything."""
    code, out, _ = lab("run", "--suite", str(suite), "--defence", f"python:tests.lab.functions:{name}", *QUICK)

    assert code == 2
    assert "not judged" in out or "failed on each of the first" in out


def test_unusable_rows_are_no_clean_run(lab: Lab, write: Write) -> None:
    """They are counted below the table."""
    path = write("s.jsonl", row("Attack", "injection"), b"nonsense", row("Good day"))

    code, out, _ = lab("run", "--suite", str(path), "--defence", WORD, *QUICK)

    assert code == 2
    assert "1 rows of the suite could not be used" in out


def test_a_threshold_may_come_from_another_suite(lab: Lab, suite: Path, write: Write) -> None:
    """Named as the suite was, by its path."""
    other = write("other/dev.jsonl", row("Attack", "injection"), row("Good day"))

    asked = ("--suite", str(suite), "--suite", str(other), "--threshold-from", str(other), "--defence", WORD)
    code, out, _ = lab("run", *asked, *QUICK)

    assert code == 0
    assert "chosen on dev.jsonl" in out


def test_rotation_reports_sources(lab: Lab, write: Write) -> None:
    """A trainer of one's own; a mean that is too low is a missed expectation."""
    rows = [
        row(f"{word} {n}", label, source=source, group=f"{source}{label}{n}")
        for source, word in (("a/x", "Attack"), ("b/y", "Attack"), ("c/z", "Strange"))
        for n in range(25)
        for label, word in (("injection", word), ("benign", "Hello"))
    ]
    path = write("s.jsonl", *rows)
    asked = ("run", "--suite", str(path), "--rotate", "python:tests.lab.functions:train", *QUICK)

    code, out, _ = lab(*asked, "--json")
    missed, words, _ = lab(*asked, "--min-auc", "0.9")

    assert code == 0
    assert {held["source"] for held in json.loads(out)["sources"]} == {"a/x", "b/y", "c/z"}
    assert missed == 1
    assert "mean AUC" in words


def test_corpora_are_checked(lab: Lab, tmp_path: Path, write: Write) -> None:
    """Sound is 0, a crossing group 1, a split that is not there 2."""
    for name in ("train/a.jsonl", "dev/ood.jsonl", "dev/indist.jsonl"):
        write(name, row(name, group=name))

    sound, out, _ = lab("corpora", "check", str(tmp_path))
    write("dev/ood.jsonl", row("x", group="train/a.jsonl"))
    crossed, _, _ = lab("corpora", "check", str(tmp_path), "--json")
    (tmp_path / "dev" / "ood.jsonl").unlink()
    lacking, words, _ = lab("corpora", "check", str(tmp_path))

    assert (sound, crossed, lacking) == (0, 1, 2)
    assert "train: 1 rows" in out
    assert "dev/ood: not there" in words


def test_corpora_that_cannot_be_fetched_are_named(lab: Lab, tmp_path: Path) -> None:
    """Exit code 2, and which source it was."""
    own = tmp_path / "own.toml"
    own.write_text(
        f'[[source]]\nrepository = "file://{tmp_path}/ann/gone"\ncommit = "0123456789ab"\nlicence = "MIT"\n'
        'split = "train"\nlabel = "benign"\nfiles = ["*"]\nkind = "text"\n'
    )

    code, out, err = lab("corpora", "build", str(tmp_path / "out"), "--table", str(own))

    assert code == 2
    assert "ann/gone" in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "--suite", "smoke", "--sample", "0"),
        ("run", "--suite", "smoke", "--threshold", "2"),
        ("run", "--suite", "smoke", "--threshold", "0.5", "--threshold-from", "smoke"),
        ("corpora",),
    ],
)
def test_wrong_usage_is_told_from_a_failure(lab: Lab, arguments: tuple[str, ...]) -> None:
    """argparse ends the program; the roof makes it 64."""
    with pytest.raises(SystemExit):
        lab(*arguments)


def test_a_run_without_a_defence_is_an_error(lab: Lab) -> None:
    """It says what to add."""
    code, out, _ = lab("run", "--suite", "smoke")

    assert code == 2
    assert "--defence rules" in out


def test_the_face_is_light() -> None:
    """The command line asks every column for its verbs: nothing large may come along."""
    script = "import sys, shieldwall.lab; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert not {"numpy", "pyarrow", "matplotlib", "numba", "onnxruntime", "hyperscan", "ssl", "asyncio"} & set(loaded)


def test_without_the_extra_the_line_to_type_is_said(tmp_path: Path) -> None:
    """Where numpy cannot be imported measuring ends with a hint, not with a traceback."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no', name='numpy')\n")
    script = (
        "import argparse, sys; sys.path.insert(0, sys.argv.pop(1)); from shieldwall.lab import add\n"
        "from shieldwall.core.errors import MissingExtra\n"
        "p = argparse.ArgumentParser(); add(p.add_subparsers()); a = p.parse_args()\n"
        "try: a.run(a)\n"
        "except MissingExtra as error: print(error, error.hint)"
    )
    asked = ["lab", "run", "--suite", "smoke", "--defence", "rules"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *asked], capture_output=True, text=True, check=True
    )

    assert "pip install 'shieldwall[lab]'" in done.stdout
    assert "numpy" in done.stdout
