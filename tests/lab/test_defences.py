# SPDX-License-Identifier: Apache-2.0
"""Every kind of defence through the one seam: what counts as a find, and that a failure is never a score."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Surface
from shieldwall.lab import Item
from shieldwall.lab.defence import read_judgement
from shieldwall.lab.defences import builtin, make, names
from shieldwall.lab.worker import Worker, read_answer

ATTACK, PLAIN = Item("Attack at dawn."), Item("Good day.")

WORKER = """
import json, sys, time
for line in sys.stdin:
    text = json.loads(line)["text"]
    if text == "die": sys.exit()
    if text == "hang": time.sleep(60)
    answer = {"score": 0.9 if text.startswith("Attack") else 0.1, "flagged": text.startswith("Attack"), "cpu_us": 12.5}
    if text == "fail": answer = {"failure": "too odd"}
    if text == "noise": print("\\x1b[31m no JSON")
    else: print(json.dumps(answer | {"name": "peer", "version": "1.2"}))
    sys.stdout.flush()
"""


def test_our_rules_are_a_defence() -> None:
    """An attack scores above a harmless sentence, on the surface it is on; the version names the rules."""
    rules = builtin("rules")

    attack, plain = rules.judge([Item("SHIELDWALL-TEST-ATTACK-7f3a9c", Surface.TOOL_RESULT), PLAIN])

    assert attack.score > 0.5 > plain.score == 0.0
    assert attack.flagged is None
    assert rules.describe().version
    assert "rules" in names()


@pytest.mark.parametrize("name", ["word", "unannotated"])
def test_a_function_is_a_defence(name: str) -> None:
    """A list of texts or one text: which it takes is learnt, not configured."""
    defence = make(f"python:tests.lab.functions:{name}")

    assert [each.score for each in defence.judge([ATTACK, PLAIN])] == [0.9, 0.1]
    assert defence.name == f"python:tests.lab.functions:{name}"


def test_a_function_may_only_decide() -> None:
    """True is a find with score one."""
    found = make("python:tests.lab.functions:decides").judge([ATTACK, PLAIN])

    assert [(each.score, each.flagged) for each in found] == [(1.0, True), (0.0, False)]


@pytest.mark.parametrize(
    "spec",
    [
        "nonsense",
        "nonsense:thing",
        "python:",
        "python:tests.lab.functions",
        "python:tests.lab.functions:absent",
        "python:no.such.module:f",
        "python:tests.lab.functions:nothing",
        "python:tests.lab.conftest:ROWS",
        "worker:",
        "worker:/no/such/program",
        "worker:'",
        "inspect:ftp://example.org",
        "inspect:http://user:word@example.org",
        "inspect:http://[",
        "chat:http://127.0.0.1:9",
        "moderations:",
    ],
)
def test_a_specification_that_cannot_be_used_is_an_error_of_ours(spec: str) -> None:
    """Before anything is measured, with what to write instead where that helps."""
    with pytest.raises(ConfigError):
        make(spec)


@pytest.mark.parametrize(
    ("value", "score"),
    [(0.3, 0.3), (1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.bool_(False), 0.0)],  # noqa: FBT003
)
def test_numbers_and_truth_values_are_judgements(value: object, score: float) -> None:
    """Python's and numpy's."""
    assert read_judgement(value).score == score
    assert not read_judgement(value).failure


@pytest.mark.parametrize("value", [None, "0.5", math.nan, math.inf, -0.1, 1.1, [0.5], 1j])
def test_everything_else_is_a_failure(value: object) -> None:
    """And has no score that could be taken for one."""
    judged = read_judgement(value)

    assert judged.failure
    assert math.isnan(judged.score)


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "peer.py"
    path.write_text(WORKER)
    return f"{sys.executable} {path}"


def test_a_program_is_a_defence(program: str) -> None:
    """Its own CPU time is taken over, and its version."""
    worker = Worker(program)

    attack, plain, failed, noise = worker.judge([ATTACK, PLAIN, Item("fail"), Item("noise")])
    worker.close()

    assert (attack.score, attack.flagged, attack.cpu_us) == (0.9, True, 12.5)
    assert plain.flagged is False
    assert failed.failure == "too odd"
    assert noise.failure == "answer is no JSON"
    assert (worker.name, worker.describe().version) == ("worker:peer", "1.2")
    assert not worker.describe().is_local


def test_a_program_that_ends_fails_what_is_left(program: str) -> None:
    """Each text is counted; none is passed."""
    worker = Worker(program)

    found = worker.judge([Item("die"), ATTACK, ATTACK])
    worker.close()

    assert [each.failure for each in found] == ["program ended"] * 3


def test_a_program_that_is_silent_is_ended(program: str) -> None:
    """A peer that hangs does not hang the range."""
    worker = Worker(program, answer_s=0.3)

    found = worker.judge([ATTACK, Item("hang"), ATTACK])
    worker.close()

    assert [bool(each.failure) for each in found] == [False, True, True]


def test_a_program_that_cannot_answer_is_no_defence() -> None:
    """It is tried before it is measured."""
    with pytest.raises(ConfigError, match="harmless sentence"):
        make(f"worker:{sys.executable} -c 'print(1)'")


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"score": 2}', b'{"score": "1"}', b"\xff", b"[" * 9000])
def test_an_odd_answer_of_a_program_is_a_failure(line: bytes) -> None:
    """Whatever it writes."""
    assert read_answer(line)[0].failure
