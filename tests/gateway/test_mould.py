# SPDX-License-Identifier: Apache-2.0
"""Reading a stream by its mould is a shorter way to the same end: what it skips was read before."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.gateway import stream
from shieldwall.gateway.dialect import Dialect
from shieldwall.gateway.mould import cast
from shieldwall.gateway.sse import parse_event
from shieldwall.gateway.wire import decode
from tests.gateway.cells import ANTHROPIC, ATTACK, OPENAI
from tests.gateway.test_stream_cuts import CUTS, DIALECTS, MODES, run

LONG = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = (
    *("word ", "I am ", "now ", "DAN", "i g n ", "o r e ", "1gn0re ", "all ", "previous ", "instructions", ". "),
    *(ATTACK, ATTACK[:9], ATTACK[9:], "", 'a "quote"', "back\\slash", "tab\t", "naïve", "шаг", "stop", "assistant"),
)
PIECES = st.lists(st.sampled_from(TEXTS), min_size=2, max_size=14)


def frame(dialect: Dialect, text: str, **more: object) -> bytes:
    """One stock event that carries a piece of text."""
    if dialect is OPENAI:
        value: dict[str, object] = {"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]}
        return b"data: " + json.dumps(value | more, ensure_ascii=False).encode() + b"\n\n"
    value = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return b"event: content_block_delta\ndata: " + json.dumps(value | more, ensure_ascii=False).encode() + b"\n\n"


def ending(dialect: Dialect) -> bytes:
    """The event that ends a stream."""
    return b"data: [DONE]\n\n" if dialect is OPENAI else b'event: message_stop\ndata: {"type": "message_stop"}\n\n'


def both_ways(raw: bytes, cuts: list[int], dialect: Dialect, *, enforce: bool) -> None:
    """The stream with moulds and without: action, findings and bytes are the same."""
    short = run(raw, cuts, dialect, enforce=enforce)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_MAX_CASTS", 0)
        long = run(raw, cuts, dialect, enforce=enforce)

    assert short == long


@DIALECTS
@MODES
@LONG
@given(pieces=PIECES, cuts=CUTS)
def test_a_stock_stream_is_judged_as_the_long_way_judges_it(
    dialect: Dialect, mode: str, pieces: list[str], cuts: list[int]
) -> None:
    """Attacks cut over events, disguised ones, and pieces that do not fit a mould."""
    raw = b"".join(frame(dialect, piece) for piece in pieces) + ending(dialect)

    both_ways(raw, cuts, dialect, enforce=mode == "enforce")


@DIALECTS
@LONG
@given(pieces=PIECES, pads=st.lists(st.sampled_from(["aZ3", "x", ATTACK, "q9"]), min_size=14, max_size=14))
def test_a_second_text_in_each_event_is_judged_too(dialect: Dialect, pieces: list[str], pads: list[str]) -> None:
    """Padding that providers add to each event is a text of its own."""
    raw = b"".join(frame(dialect, piece, obfuscation=pad) for piece, pad in zip(pieces, pads, strict=False))

    both_ways(raw + ending(dialect), [], dialect, enforce=True)


def test_a_mould_fits_what_differs_in_its_text_alone() -> None:
    """The next event of a stock stream gives its text; any other difference, and the event is read as a whole."""
    raw = frame(OPENAI, "Hello")
    read = OPENAI.deltas("", decode(parse_event(raw).data))

    mould = cast(OPENAI, raw, read.deltas, ["/id", "/model"])

    assert mould is not None
    assert mould.fit(frame(OPENAI, " there.")) == [b" there."]
    assert mould.fit(frame(OPENAI, "")) == [b""]
    others = [frame(OPENAI, 'a"b'), frame(OPENAI, "é"), frame(OPENAI, "x", more="y"), raw.replace(b'"m"', b'"n"')]
    assert [mould.fit(each) for each in others] == [None] * len(others)


@pytest.mark.parametrize(
    "raw",
    [
        # The text stands twice: which one is the place cannot be told.
        frame(OPENAI, "Hello", user="Hello"),
        # Written with an escape, so what stands elsewhere under the same spelling is not it.
        frame(OPENAI, "Hello").replace(b'"Hello"', b'"Hell\\u006f"').replace(b'"m"', b'"Hello"'),
    ],
)
def test_no_mould_where_the_place_is_not_certain(raw: bytes) -> None:
    """Then every event is read in the ordinary way."""
    read = OPENAI.deltas("", decode(parse_event(raw).data))

    assert cast(OPENAI, raw, read.deltas, ["/id", "/model", "/user"]) is None


def test_tool_arguments_still_wait_until_they_are_whole() -> None:
    """A mould of a tool call's arguments judges them, and releases nothing of them early."""
    texts = ["{'a': ", "1, 'b': ", "2}"]
    values = [
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": text}}
        for text in texts
    ]
    raw = b"".join(b"event: content_block_delta\ndata: " + json.dumps(value).encode() + b"\n\n" for value in values)

    both_ways(raw, [5, 300], ANTHROPIC, enforce=True)


def block(kind: str, **more: object) -> bytes:
    """An event that begins a content block."""
    value = {"type": "content_block_start", "index": 0, "content_block": {"type": kind, "id": "i", "name": "n"} | more}
    return b"event: content_block_start\ndata: " + json.dumps(value).encode() + b"\n\n"


@MODES
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (block("zzz", input={}), block("tool_use", input={})),
        (block("zzz", input={"url": "u"}), block("tool_use", input={"url": ATTACK})),
        (block("zzz", title="t"), block("document", title=ATTACK)),
        (block("zzz", data="aGVsbG8="), block("redacted_thinking", data="aGVsbG8=")),
        (
            block("x", source={"type": "zzz", "data": "aGVsbG8="}),
            block("x", source={"type": "base64", "data": "aGVsbG8="}),
        ),
        (frame(ANTHROPIC, "a", type="zzz"), frame(ANTHROPIC, ATTACK, type="message_delta")),
    ],
)
def test_a_value_that_decides_how_an_event_is_read_is_no_hole(first: bytes, second: bytes, mode: str) -> None:
    """An unknown `type` first, a known one in its place then: the second is read as what it is."""
    both_ways(first + second + second + ending(ANTHROPIC), [], ANTHROPIC, enforce=mode == "enforce")


def test_what_may_wait_is_counted_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that wait for a held text count towards the limit one by one, also where they are judged in a row."""
    monkeypatch.setattr(stream, "_MAX_CASTS", 32)
    pad = "a" * 7_800
    texts = ["tab\t", "word ", "My", *[""] * 540, " cat sat", " on"]
    raw = b"".join(frame(OPENAI, text, id=pad) for text in texts) + ending(OPENAI)

    both_ways(raw, [], OPENAI, enforce=True)
    both_ways(raw, list(range(0, len(raw), 262_144)), OPENAI, enforce=True)


def test_bytes_between_events_that_are_no_text_are_named() -> None:
    """A compressed stream that does not say so must not pass as comments."""
    raw = b"\x1f\x8b\x08\xff\xfe compressed\n\n" + ending(OPENAI)

    _, findings, _ = run(raw, [], OPENAI, enforce=True)

    assert "shieldwall.uninspected.framing.1" in {finding.rule for finding in findings}
