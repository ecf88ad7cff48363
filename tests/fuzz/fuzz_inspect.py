# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as the body of `POST /v1/inspect`: an answer for each item in order, or one InvalidInput.

No item is lost, none is answered for another, and an item that cannot be read is no verdict.
"""

from datetime import UTC, datetime
from functools import cache

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.event import Event
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Action
from shieldwall.gateway.inspection import inspect
from shieldwall.gateway.wire import decode
from shieldwall.node import Config, make_detector, make_policy

SEEDS: list[bytes] = [
    b"",
    b"{}",
    b"[]",
    b'{"text": "How tall is the Eiffel Tower?"}',
    b'{"text": "SHIELDWALL-TEST-ATTACK-7f3a9c", "surface": "tool_result"}',
    b'[{"text": "a"}, {"text": 1}, 7, null, {"text": "b", "surface": "whisper"}, {"text": "c", "surface": ["x"]}]',
    b'{"text": "\\ud83d\\udee1 \\ud800", "surface": "user"}',
    b'{"text": "a", "text": "SHIELDWALL-TEST-ATTACK-7f3a9c"}',
    b'[{"text": "", "surface": "response"}, {"surface": "tool_output", "text": "x\\u0000y"}]',
    b'"text"',
    b"[" * 100,
    b"[" + b"0," * 1_000 + b"0]",
]

_EVENT = Event(id="0190a0b0-0000-7000-8000-000000000001", time=datetime(2026, 1, 1, tzinfo=UTC))
_AT = Surroundings(lambda: 0, lambda: 0, bytes)


@cache
def _guard() -> Guard:
    return Guard(detector=make_detector(Config()), policy=make_policy(Config()), surroundings=_AT)


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    step = inspect(_guard(), _EVENT, data, _AT)
    try:
        # Nothing is recorded here, so nothing is waited for: it only lets others go on, once per item.
        while step.send(None) is None:
            pass
    except InvalidInput:
        return
    except StopIteration as ended:
        answer, action, entry = ended.value
    else:
        raise AssertionError("waited for a journal there is none of")
    asked, told = decode(data), msgspec.json.decode(answer)
    assert isinstance(asked, list) == isinstance(told, list)
    items, answers = (asked, told) if isinstance(asked, list) else ([asked], [told])
    assert len(items) == len(answers)
    for item, each in zip(items, answers, strict=True):
        if isinstance(item, dict) and isinstance(item.get("text"), str) and "surface" not in item:
            assert each.keys() == {"action", "score", "findings", "complete"}
        elif not isinstance(item, dict) or not isinstance(item.get("text"), str):
            assert each.keys() == {"error"}
    assert isinstance(action, Action)
    assert action.rank == max((Action(each["action"]).rank for each in answers if "action" in each), default=0)
    assert entry is None
