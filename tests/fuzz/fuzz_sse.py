# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes an upstream streams, and however they are cut, the same events, findings and released bytes follow.

The first byte of an input says how the rest is cut; what is not an error of ours never leaves the gate as another.
"""

from datetime import UTC, datetime
from functools import cache

from shieldwall.core.errors import LimitExceeded
from shieldwall.core.event import Direction, Event
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Finding
from shieldwall.detect import SELFTEST_TEXT, RuleDetector
from shieldwall.gateway import Anthropic, OpenAI, Settings
from shieldwall.gateway.dialect import Dialect
from shieldwall.gateway.stream import Gate
from shieldwall.govern import load_policy

_BAD = SELFTEST_TEXT.encode()

_SAY = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}'
_CALL = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}'
_OVER = b'data: {"choices":[{"finish_reason":"tool_calls","delta":{}}]}'
_BLOCK = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,%s"delta":{"text":"%s"}}'

SEEDS: list[bytes] = [
    b"",
    b"\x01" + _SAY % b"hello" + b"\n\ndata: [DONE]\n\n",
    b"\x07" + _SAY % b"SHIELDWALL-TEST" + b"\n\n" + _SAY % b"-ATTACK-7f3a9c" + b"\n\n",
    b"\x03" + _CALL + b"\r\n\r\n" + _OVER + b"\r\n\r\n",
    b"\x05" + _BLOCK % (b"", b"x") + b'\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
    b"\x02" + _BLOCK % (b"\rdata: ", _BAD) + b"\r\r",
    b"\x04: comment\n\nid: 1\nretry: 5\nx: y\n\n: " + _BAD + b"\n\n",
    b"\x09\xef\xbb\xbfdata: {\n\ndata\n\nevent: \xff\n\n\n\n\r\n\r",
    b'\x06data: [DONE]\n\ndata: {"late":"' + _BAD + b'"}',
]

_DIALECTS: tuple[Dialect, ...] = (OpenAI(), Anthropic())
_LIMITS = Settings(max_event_bytes=1 << 12, max_held_bytes=1 << 13)
_EVENT = Event(id="e", time=datetime(2026, 1, 1, tzinfo=UTC), direction=Direction.RESPONSE)


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    step, raw = (data[0] % 31 + 1, data[1:]) if data else (1, b"")
    for dialect in _DIALECTS:
        for enforce in (True, False):
            whole = _run(dialect, raw, len(raw) or 1, enforce=enforce)
            pieces = _run(dialect, raw, step, enforce=enforce)
            if whole is None or pieces is None:
                # Over a limit: an event that is too long is noticed while it arrives, in whichever piece that is.
                continue
            assert whole == pieces
            out, findings, stopped = whole
            assert raw.startswith(out)
            assert stopped or out == raw
            if enforce and any(finding.rule.endswith("selftest.1") for finding in findings):
                assert stopped


def _run(dialect: Dialect, raw: bytes, step: int, *, enforce: bool) -> tuple[bytes, list[Finding], bool] | None:
    """What leaves, what was found, and whether the stream was stopped; None when a limit ended it."""
    gate = Gate(_guard(), _EVENT, dialect, _LIMITS, enforce=enforce)
    out = b""
    try:
        for start in range(0, len(raw), step):
            out += gate.feed(raw[start : start + step])
            if gate.stopped is not None:
                return out, gate.findings, True
        out += gate.end()
    except LimitExceeded:
        assert raw.startswith(out)
        return None
    return out, gate.findings, gate.stopped is not None


@cache
def _guard() -> Guard:
    at = Surroundings(clock=lambda: 1, ticks=lambda: 1, entropy=bytes)
    return Guard(detector=RuleDetector(), policy=load_policy("balanced"), surroundings=at)
