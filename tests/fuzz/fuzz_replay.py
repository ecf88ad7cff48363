# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as a line of a recorded file: `replay` judges it or refuses it with an InvalidInput.

The same line, inspected by `inspect --json -`, gives one answer or one error object.
"""

import contextlib
import io
import sys
from functools import cache
from typing import Any

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Verdict
from shieldwall.node import Config, make_detector, make_policy
from shieldwall.verbs.inspection import _lines
from shieldwall.verbs.replay import _replay

_ASK = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
_ATTACK = b"SHIELDWALL-TEST-ATTACK-7f3a9c"

SEEDS: list[bytes] = [
    b"",
    b'{"dialect": "openai", "request": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}',
    b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}',
    b'{"model": "m", "max_tokens": 1, "system": "s", "messages": [{"role": "user", "content": "hi"}]}',
    b'{"request": ' + _ASK + b', "response": {"choices": [{"index": 0, "message": {"content": "' + _ATTACK + b'"}}]}}',
    b'{"dialect": "anthropic", "request": ' + _ASK + b', "response": {"content": [{"type": "text", "text": "ho"}]}}',
    b'{"dialect": ["openai"], "request": 1}',
    b'{"dialect": "klingon", "request": {}}',
    b'{"request": null, "response": []}',
    b'{"text": "How tall is it?", "surface": "document"}',
    b'{"text": "\\ud800"}',
    b'{"text": 1, "surface": {}}',
    b'{"request": ' + b"[" * 2_000,
    b"[1e999]",
    b"\xff\xfe",
]

_AT = Surroundings(lambda: 0, lambda: 0, bytes)


@cache
def _guard() -> Guard:
    return Guard(detector=make_detector(Config()), policy=make_policy(Config()), surroundings=_AT)


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    try:
        verdicts = _replay(_guard(), _AT, data)
    except InvalidInput:
        # An error of ours: the line is named and the next one is read.
        pass
    else:
        assert 1 <= len(verdicts) <= 2
        assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    printed = _Printed()
    with contextlib.redirect_stdout(printed):
        code = _lines(_guard(), io.BytesIO(data), "prompt")
    lines = [line for line in data.split(b"\n") if line.strip()]
    answers: list[Any] = [msgspec.json.decode(line) for line in printed.buffer.getvalue().splitlines()]
    assert len(answers) == len(lines)
    assert (code == 2) == any("error" in answer for answer in answers)
    assert sys.stdout is not printed


class _Printed(io.TextIOWrapper):
    """Standard output whose bytes can be looked at."""

    buffer: io.BytesIO

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8")
