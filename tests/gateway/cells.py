# SPDX-License-Identifier: Apache-2.0
"""The cells of the coverage matrix: kinds of messages, spellings of a known-bad text, and how one cell is judged.

A cell is one place of a client's typed model (see `models`) with one spelling in it. What is asked of it is written
here apart from the readers, so that a reader cannot excuse itself: which places carry base64, and which strings a
client joins over events.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import anthropic.types as anthropic_types
import anthropic.types.beta as beta_types
import openai.types.chat as chat_types
from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as BetaRequest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as MessageRequest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatRequest

from shieldwall.core.event import Direction, Event, Segment
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Action, Category, Finding
from shieldwall.detect import SELFTEST_TEXT, RuleDetector
from shieldwall.gateway import Anthropic, OpenAI, Settings
from shieldwall.gateway.dialect import Dialect
from shieldwall.gateway.stream import Gate
from shieldwall.govern.policy import load_policy
from tests.gateway.models import Kind, Place, places

ATTACK = SELFTEST_TEXT
RULE = "shieldwall.injection.selftest.1"
OPENAI, ANTHROPIC = OpenAI(), Anthropic()
SPELLINGS: Mapping[str, bytes] = {
    "plain": f"Well: {ATTACK}, so it is.".encode(),
    "bare": ATTACK.encode(),
    "escaped": "".join(f"\\u{ord(char):04x}" for char in ATTACK).encode(),
    "base64": base64.b64encode(f"a longer text around {ATTACK} so that it decodes".encode()),
}
"""The known-bad text as the bytes between two quotes."""

CUTS = (1, 11, len(ATTACK) - 1)
"""Where the text is cut in two for strings that grow over events."""

BINARY = re.compile(
    r"(ImageParam>/image_url/url|/input_audio/data|/file/file_data|<ChatCompletionAudio>/data|<ChoiceDeltaAudio>/data"
    r"|Base64\w+>/(\w+/)*data|RedactedThinkingBlock(Param)?>/data)(<str>)?$"
)
"""Places for base64 of pictures, sound, files or ciphertext: that is named `uninspected`, anything else is read."""

JOINED = re.compile(
    r"^/choices/0/delta/|<\w*(Text|InputJSON|Thinking)Delta>/(text|partial_json|thinking)$"
    r"|ContentBlockStartEvent>/content_block<\w*(Text|Thinking)Block>/(text|thinking)$"
)
"""Strings that a client joins over the events of a stream."""

_MARK = "@@here@@"


class Root(NamedTuple):
    """One kind of message."""

    name: str
    dialect: Dialect
    way: str
    """ask | answer | stream: how it is read."""
    kind: Any
    """Its typed model."""


ROOTS = (
    Root("openai request", OPENAI, "ask", ChatRequest),
    Root("openai answer", OPENAI, "answer", chat_types.ChatCompletion),
    Root("openai stream", OPENAI, "stream", chat_types.ChatCompletionChunk),
    Root("anthropic request", ANTHROPIC, "ask", MessageRequest),
    Root("anthropic answer", ANTHROPIC, "answer", anthropic_types.Message),
    Root("anthropic error", ANTHROPIC, "answer", anthropic_types.ErrorResponse),
    Root("anthropic stream", ANTHROPIC, "stream", anthropic_types.RawMessageStreamEvent),
    Root("anthropic beta request", ANTHROPIC, "ask", BetaRequest),
    Root("anthropic beta answer", ANTHROPIC, "answer", beta_types.BetaMessage),
    Root("anthropic beta stream", ANTHROPIC, "stream", beta_types.BetaRawMessageStreamEvent),
)


@cache
def all_places(root: Root) -> tuple[Place, ...]:
    """Every string of one kind of message."""
    return tuple(places(root.kind))


def one_of_each(root: Root) -> list[Place]:
    """Of the places that are the same field of the same model, reached on different ways, the first."""
    chosen: dict[tuple[str, ...], Place] = {}
    for place in all_places(root):
        steps = place.label.split("/")
        # The last step alone may be an index or `{}` of free JSON; two tell fields of one model apart.
        chosen.setdefault((*place.types[-1:], *steps[-2:]), place)
    return list(chosen.values())


def grows(root: Root, place: Place) -> bool:
    """Whether a known-bad text may be cut over two events here. An illegal `role` or `type` is no such text."""
    joined = root.way == "stream" and place.kind is Kind.TEXT and JOINED.search(place.label) is not None
    return joined and not BINARY.search(place.label) and "ContentBlockStart" not in place.label


def count_cells() -> dict[str, int]:
    """Cells per kind of message: each spelling and one benign value of each place, and each cut of those that grow."""
    counts = {}
    for root in ROOTS:
        found = all_places(root)
        counts[root.name] = len(found) * (len(SPELLINGS) + 1) + len(CUTS) * sum(grows(root, place) for place in found)
    return counts


def new_guard() -> Guard:
    """The real rules and the balanced policy, without a journal."""
    at = Surroundings(clock=lambda: 1, ticks=lambda: 1, entropy=bytes)
    return Guard(detector=RuleDetector(), policy=load_policy("balanced"), surroundings=at)


def event(segments: Sequence[Segment] = (), direction: Direction = Direction.RESPONSE) -> Event:
    """An event of these segments."""
    return Event(id="e", time=datetime(2026, 1, 1, tzinfo=UTC), direction=direction, segments=tuple(segments))


def body_of(place: Place, text: bytes) -> bytes:
    """The message with `text`, JSON escapes and all, in its place."""
    return json.dumps(place.build(_MARK)).encode().replace(_MARK.encode(), text)


def events_of(dialect: Dialect, *bodies: bytes) -> list[bytes]:
    """The bodies as the events of a whole stream."""
    if dialect is OPENAI:
        return [*(b"data: " + body + b"\n\n" for body in bodies), b"data: [DONE]\n\n"]
    bodies = (*bodies, b'{"type": "message_stop"}')
    return [b"event: " + _type_of(body) + b"\ndata: " + body + b"\n\n" for body in bodies]


def _type_of(body: bytes) -> bytes:
    """Name of an event; a type that is no word of the protocol stands in the data alone."""
    kind = json.loads(body)["type"]
    return kind.encode() if re.fullmatch(r"[a-z_]+", kind) else b"ping"


def gate_of(guard: Guard, dialect: Dialect, *, enforce: bool = True) -> Gate:
    """A stream's judge with the settings a node has by itself."""
    return Gate(guard, event(), dialect, Settings(), enforce=enforce)


class Outcome(NamedTuple):
    """What became of one message."""

    action: Action
    findings: Sequence[Finding]
    out: bytes
    """What leaves."""


def judge(guard: Guard, root: Root, *bodies: bytes) -> Outcome:
    """Read and judge a message; several bodies are the events of one stream."""
    if root.way == "stream":
        gate = gate_of(guard, root.dialect)
        out = gate.feed(b"".join(events_of(root.dialect, *bodies))) + gate.end()
        return Outcome(guard.decide(event(), gate.findings).action, gate.findings, out)
    (body,) = bodies
    if root.way == "ask":
        ask = root.dialect.ask(body)
        verdict = guard.judge(event(ask.segments, Direction.REQUEST), also=ask.uninspected).verdict
    else:
        segments, also = root.dialect.answer(body)
        verdict = guard.judge(event(segments), also=also).verdict
    return Outcome(verdict.action, verdict.findings, b"" if verdict.action.stops else body)


def pointer_of(place: Place, text: str) -> str:
    """RFC 6901 pointer of the place when `text` stands there."""
    tokens = (*place.pointer, text) if place.kind is Kind.NAME else place.pointer
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def complaint(guard: Guard, root: Root, place: Place, spelling: str) -> str | None:
    """Why the cell is not green; None when it is."""
    text = SPELLINGS[spelling]
    action, findings, out = judge(guard, root, body_of(place, text))
    found = [finding for finding in findings if finding.rule == RULE]
    if not found:
        unread = any(finding.category is Category.UNINSPECTED for finding in findings)
        excused = unread and spelling != "plain" and BINARY.search(place.label) and action is not Action.ALLOW
        return None if excused else "not found"
    wanted = pointer_of(place, json.loads(b'"' + text + b'"'))
    if root.way != "stream" and all(finding.path != wanted for finding in found):
        return f"found at {found[0].path}"
    # Decoded views hold no text back: base64 in a text that grows is found when its run has ended.
    if text in out and not (spelling == "base64" and JOINED.search(place.label)):
        return "released"
    return None if action is Action.BLOCK else f"only {action.value}"


def split_complaints(guard: Guard, root: Root, place: Place) -> Iterator[str]:
    """For each cut of the text over two events: why that cell is not green."""
    for cut in CUTS:
        halves = [body_of(place, half.encode()) for half in (ATTACK[:cut], ATTACK[cut:])]
        action, findings, out = judge(guard, root, *halves)
        if action is not Action.BLOCK or all(finding.rule != RULE for finding in findings):
            yield f"cut at {cut}: {action.value}"
        elif out:
            yield f"cut at {cut}: released {len(out)} bytes"
