# SPDX-License-Identifier: Apache-2.0
"""A stream's verdict and what leaves of it follow from its bytes alone, not from how the network cut them."""

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.verdict import Action, Finding
from shieldwall.gateway.dialect import Dialect
from shieldwall.gateway.sse import EventReader
from tests.gateway.cells import ANTHROPIC, ATTACK, OPENAI, RULE, SPELLINGS, event, events_of, gate_of, new_guard

GUARD = new_guard()
"""One for all examples: it keeps nothing of what it judged."""

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECTS = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
MODES = pytest.mark.parametrize("mode", ["enforce", "observe"])

FRAGMENTS = (
    ATTACK,
    ATTACK[:10],
    ATTACK[10:],
    "SHIELDWALL-TEST",
    "-ATTACK-",
    "7f3a9c",
    SPELLINGS["base64"].decode(),
    " ",
    ". ",
    "x",
    "Schöne Grüße",
    "шаг",
    "\U0001f6e1",
    "\0",
    '"}\n\n',
)
"""Pieces that make and break a match, and characters of one to four bytes."""

TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=6).map("".join)
ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def chat(**delta: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta}]}, ensure_ascii=False).encode("utf-8", "replace")


def message(index: int, delta: dict[str, object]) -> bytes:
    value = {"type": "content_block_delta", "index": index, "delta": delta}
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def said(dialect: Dialect, text: str) -> bytes:
    """One event that adds to the answer's text."""
    return chat(content=text) if dialect is OPENAI else message(0, {"type": "text_delta", "text": text})


def called(dialect: Dialect, text: str) -> bytes:
    """One event that adds to a tool call's arguments."""
    if dialect is OPENAI:
        return chat(tool_calls=[{"index": 0, "function": {"arguments": text}}])
    return message(1, {"type": "input_json_delta", "partial_json": text})


def begun(dialect: Dialect) -> bytes:
    """The event that names a tool call."""
    if dialect is OPENAI:
        return chat(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "look"}}])
    block = {"type": "tool_use", "id": "c", "name": "look", "input": {}}
    return json.dumps({"type": "content_block_start", "index": 1, "content_block": block}).encode()


def over(dialect: Dialect) -> bytes:
    """The event with which the tool call is whole."""
    if dialect is OPENAI:
        return b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}'
    return b'{"type": "content_block_stop", "index": 1}'


@st.composite
def streams(draw: st.DrawFn, dialect: Dialect) -> bytes:
    """A whole stream: texts, tool calls, other values, comments, broken events, in any order and any line ends."""
    bodies = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["said", "said", "called", "value", "broken"]))
        text = draw(TEXTS)
        if kind == "said":
            bodies.append(said(dialect, text))
        elif kind == "called":
            bodies.append(called(dialect, text))
        elif kind == "value":
            bodies.append(json.dumps({"type": "ping", "brand_new": text}).encode())
        else:
            bodies.append(b'{"type": "ping", "broken')
    if draw(st.booleans()):
        bodies.append(over(dialect))
    events = _framed(dialect, bodies)
    for _ in range(draw(st.integers(0, 2))):
        comment = draw(TEXTS).replace("\n", " ").replace("\r", " ").encode("utf-8", "replace")
        events.insert(draw(st.integers(0, len(events))), b": " + comment + b"\n\n")
    ending = draw(ENDINGS)
    return b"".join(each.replace(b"\n", ending) if draw(st.booleans()) else each for each in events)


def _framed(dialect: Dialect, bodies: Sequence[bytes]) -> list[bytes]:
    if dialect is OPENAI:
        return events_of(OPENAI, *bodies)
    ends = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    return [*(b"event: content_block_delta\ndata: " + body + b"\n\n" for body in bodies), ends]


def run(raw: bytes, cuts: Sequence[int], dialect: Dialect, *, enforce: bool) -> tuple[Action, list[Finding], bytes]:
    """Feed the bytes cut at these places; action, findings, and all that left."""
    gate = gate_of(GUARD, dialect, enforce=enforce)
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    out = b""
    for start, stop in pairwise(places):
        if gate.stopped is None:
            out += gate.feed(raw[start:stop])
    if gate.stopped is None:
        out += gate.end()
    return GUARD.decide(event(), gate.findings).action, gate.findings, out


CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)


def _same_however_cut(data: st.DataObject, dialect: Dialect, *, enforce: bool) -> None:
    raw = data.draw(streams(dialect))
    cuts = data.draw(CUTS)

    whole = run(raw, [], dialect, enforce=enforce)

    assert run(raw, cuts, dialect, enforce=enforce) == whole
    assert raw.startswith(whole[2])
    if not whole[0].stops or not enforce:
        assert whole[2] == raw


@DIALECTS
@MODES
@given(data=st.data())
@FEW
def test_cutting_a_stream_changes_nothing(data: st.DataObject, dialect: Dialect, mode: str) -> None:
    """Action, findings and released bytes are the same; what leaves is a prefix, and all where nothing stops it."""
    _same_however_cut(data, dialect, enforce=mode == "enforce")


@pytest.mark.slow
@DIALECTS
@MODES
@given(data=st.data())
@MANY
def test_cutting_a_stream_changes_nothing_in_many_cases(data: st.DataObject, dialect: Dialect, mode: str) -> None:
    """The same, for longer."""
    _same_however_cut(data, dialect, enforce=mode == "enforce")


@DIALECTS
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_single_cut_of_a_stream_gives_the_same(dialect: Dialect, ending: bytes) -> None:
    """Inside characters, escapes, line ends and event borders: every byte offset is tried, and every byte alone."""
    bodies = [said(dialect, "Grüße \U0001f6e1 "), said(dialect, '\\"\n '), said(dialect, ATTACK[:7])]
    bodies.append(said(dialect, ATTACK[7:] + " end").replace(b"-", b"\\u002d"))
    raw = b"".join(_framed(dialect, bodies)).replace(b"\n", ending)
    whole = run(raw, [], dialect, enforce=True)

    cut = [run(raw, [place], dialect, enforce=True) for place in range(1, len(raw))]
    alone = run(raw, range(len(raw)), dialect, enforce=True)

    assert [place for place, result in enumerate(cut, 1) if result != whole] == []
    assert alone == whole
    assert whole[0] is Action.BLOCK
    assert whole[2] == b"".join(_framed(dialect, bodies[:2])[:2]).replace(b"\n", ending)


def _answer(dialect: Dialect, text: str) -> bytes:
    if dialect is OPENAI:
        value: dict[str, object] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    else:
        value = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}
    return json.dumps(value, ensure_ascii=False).encode()


@DIALECTS
@given(pieces=st.lists(TEXTS, min_size=1, max_size=6))
@FEW
def test_an_answer_streamed_or_whole_gives_the_same_findings(pieces: list[str], dialect: Dialect) -> None:
    """JSON is the stream fed once: rule, place and span are those of the assembled message."""
    pieces = [piece.encode("utf-8", "replace").decode() for piece in pieces]
    segments, also = dialect.answer(_answer(dialect, "".join(pieces)))
    whole = GUARD.judge(event(segments), also=also).verdict

    raw = b"".join(_framed(dialect, [said(dialect, piece) for piece in pieces]))
    action, findings, _ = run(raw, [], dialect, enforce=False)

    assert {(f.rule, f.path, f.span, f.surface) for f in findings} == {
        (f.rule, f.path, f.span, f.surface) for f in whole.findings
    }
    assert action is whole.action


@DIALECTS
@given(before=st.integers(0, 3), cut=st.integers(0, len(ATTACK)), after=st.integers(0, 3))
@FEW
def test_nothing_leaves_from_the_anchor_on(before: int, cut: int, after: int, dialect: Dialect) -> None:
    """The events before the known-bad text leave, each at once; the one it begins in and all later ones do not."""
    words = [said(dialect, f"word {number} ") for number in range(before)]
    events = _framed(dialect, [*words, said(dialect, ATTACK[:cut]), said(dialect, ATTACK[cut:])])
    events[-1:-1] = _framed(dialect, [said(dialect, f" more {number}") for number in range(after)])[:-1]
    gate = gate_of(GUARD, dialect)

    out = [gate.feed(each) for each in events]

    # An empty first half is an event without text, which may leave.
    allowed = before + (cut == 0)
    assert out[:allowed] == events[:allowed]
    assert b"".join(out[allowed:]) + (gate.end() if gate.stopped is None else b"") == b""
    assert gate.stopped is not None


@DIALECTS
def test_a_tool_call_leaves_only_when_it_is_whole(dialect: Dialect) -> None:
    """A client may act on arguments as they come, so none of them leave before all of them were judged."""
    arguments = [begun(dialect), *(called(dialect, piece) for piece in ('{"city": ', '"Paris"}'))]
    events = _framed(dialect, [said(dialect, "I look. "), *arguments, said(dialect, "Later."), over(dialect)])
    gate = gate_of(GUARD, dialect)

    out = [gate.feed(each) for each in events[:-1]]

    assert out[0] == events[0]
    assert out[1:5] == [b""] * 4
    assert out[5] == b"".join(events[1:6])
    assert gate.feed(events[6]) + gate.end() == events[6]


@DIALECTS
def test_a_tool_call_with_a_known_bad_text_never_leaves(dialect: Dialect) -> None:
    """Also when the text is the last of the arguments, and escaped once more inside them."""
    nested = json.dumps({"command": ATTACK}).replace("ATT", "\\u0041TT")
    arguments = [called(dialect, piece) for piece in (nested[:20], nested[20:])]
    events = _framed(dialect, [begun(dialect), *arguments, over(dialect)])
    gate = gate_of(GUARD, dialect)

    out = b"".join(gate.feed(each) for each in events)

    assert gate.stopped is not None
    assert gate.stopped.action is Action.BLOCK
    assert out == b""


LOOSE = {
    "a comment": b": %s\n\n",
    "an id": b"id: %s\n\n",
    "a field of no name known": b"x-new: %s\n\n",
    "a field's name": b"%s: 1\n\n",
    "an event's name": b"event: %s\ndata: {}\n\n",
    "an event's name without data": b"event: %s\n\n",
    "an event's name above the end mark": b"event: %s\ndata: [DONE]\n\n",
    "an event's name above what is no JSON": b"event: %s\ndata: {\n\n",
    "data that are no JSON": b"data: %s\n\n",
    "what follows the end mark": b'data: [DONE]\n\ndata: {"x": "%s"}\n\n',
    "data of two lines": b'data: {"x":\ndata: "%s"}\n\n',
    "data without a blank line after them": b'data: {"x": "%s"}',
    "data behind a byte order mark": b'\xef\xbb\xbfdata: {"x": "%s"}\n\n',
    "data that are a string": b'data: "%s"\n\n',
    "a member twice": b'data: {"x": "%s", "x": 1}\n\n',
    "two comments": b": a\n\n: %s\n\n",
    "two events that are no JSON": b"data: {a\n\ndata: %s\n\n",
    "a new value after another": b'data: {"id": "a"}\n\ndata: {"id": "%s"}\n\n',
    "a new member in a delta": b'data: {"choices": [{"delta": {"brand_new": {"deep": "%s"}}}]}\n\n',
    "a delta of an unknown event": b'data: {"type": "brand_new", "index": 0, "delta": {"text": "%s"}}\n\n',
    "a call's name after another": (
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "a"}}]}}]}\n\n'
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "%s"}}]}}]}\n\n'
    ),
    "a call's type after another": (
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "type": "a"}]}}]}\n\n'
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "type": "%s"}]}}]}\n\n'
    ),
    "a role after another": (
        b'data: {"choices": [{"delta": {"role": "a"}}]}\n\ndata: {"choices": [{"delta": {"role": "%s"}}]}\n\n'
    ),
    "a signature after another": (
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"signature": "a"}}\n\n'
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"signature": "%s"}}\n\n'
    ),
    "a block's id after another": (
        b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "a"}}\n\n'
        b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "%s"}}\n\n'
    ),
    "a tool call's unknown member": b'data: {"choices": [{"delta": {"tool_calls": [{"brand_new": "%s"}]}}]}\n\n',
}


@DIALECTS
@pytest.mark.parametrize("where", LOOSE)
def test_what_stands_outside_the_known_events_is_read(where: str, dialect: Dialect) -> None:
    """No framing carries a text past the judge."""
    raw = LOOSE[where].replace(b"%s", ATTACK.encode())

    action, findings, out = run(raw, [], dialect, enforce=True)

    assert RULE in {finding.rule for finding in findings}
    assert action is Action.BLOCK
    assert ATTACK.encode() not in out


SPLIT: dict[str, tuple[Dialect, str, tuple[str, str]]] = {
    "an index that is a whole float": (
        OPENAI,
        '{"choices": [{"index": %s, "delta": {"content": "%s"}}]}',
        ("1", "1.0"),
    ),
    "a call's index that is a whole float": (
        OPENAI,
        '{"choices": [{"delta": {"tool_calls": [{"index": %s, "function": {"arguments": "%s"}}]}}]}',
        ("2", "2.0"),
    ),
    "a delta of an event without type": (ANTHROPIC, '{"index": %s, "delta": {"text": "%s"}}', ("0", "0")),
}


@pytest.mark.parametrize("how", SPLIT)
def test_halves_that_a_client_would_join_are_judged_as_one(how: str) -> None:
    """Clients compare an index as a number and read a delta by its members."""
    dialect, form, indexes = SPLIT[how]
    halves = [form % (index, half) for index, half in zip(indexes, (ATTACK[:12], ATTACK[12:]), strict=True)]
    raw = b"".join(b"event: content_block_delta\ndata: " + half.encode() + b"\n\n" for half in halves)

    action, _, _ = run(raw, [], dialect, enforce=True)

    assert action is Action.BLOCK


def test_sound_in_many_pieces_is_named_uninspected_once() -> None:
    """As in a whole answer; a thousand pieces must not fill the record with one and the same finding."""
    pieces = [chat(audio={"data": "iVBORw0KGgoAAAANSUhEUgAA"})] * 50

    _, findings, out = run(b"".join(events_of(OPENAI, *pieces)), [], OPENAI, enforce=True)

    assert [(finding.rule, finding.path) for finding in findings] == [
        ("shieldwall.uninspected.binary.1", "/choices/0/message/audio/data")
    ]
    assert out == b"".join(events_of(OPENAI, *pieces))


LINES = (b"data: x", b"event: y", b":", b"", b"data", b"\xef\xbb\xbf", b"\xff")


@given(lines=st.lists(st.sampled_from(LINES)), data=st.data())
@FEW
def test_events_are_cut_the_same_and_lose_no_byte(lines: list[bytes], data: st.DataObject) -> None:
    """The reader's events, laid end to end, are the bytes that came, whatever the line ends and pieces."""
    raw = b"".join(line + data.draw(ENDINGS) for line in lines)
    cuts = sorted(cut % (len(raw) + 1) for cut in data.draw(CUTS))

    results = []
    for places in ([0, len(raw)], [0, *cuts, len(raw)]):
        reader = EventReader(1 << 20)
        events = [each for a, b in pairwise(places) for each in reader.feed(raw[a:b])]
        last = reader.end()
        results.append(events + ([last] if last else []))

    assert results[0] == results[1]
    assert b"".join(each.raw for each in results[0]) == raw
