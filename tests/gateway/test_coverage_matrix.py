# SPDX-License-Identifier: Apache-2.0
"""The coverage matrix: no string of a message goes by unread, whichever field it stands in.

The cells are generated from the clients' typed models; docs/coverage.md states how many there are and what they ask.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Required

import pydantic
import pytest
from typing_extensions import TypedDict

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.core.event import Surface
from shieldwall.core.guard import Guard
from shieldwall.core.verdict import Action, Category
from tests.gateway.cells import (
    ANTHROPIC,
    ATTACK,
    OPENAI,
    ROOTS,
    RULE,
    SPELLINGS,
    Root,
    all_places,
    body_of,
    complaint,
    count_cells,
    events_of,
    grows,
    judge,
    new_guard,
    one_of_each,
    split_complaints,
)
from tests.gateway.models import BENIGN, Kind, Place, minimal, places

FLOOR = 40_000
"""Cells there are at least; a client that loses fields, or a walker that does, falls below it."""

BETA = tuple(root for root in ROOTS if "beta" in root.name)
STABLE = tuple(root for root in ROOTS if root not in BETA)
ASKS = (ROOTS[0], ROOTS[3])


@pytest.fixture(scope="module")
def guard() -> Guard:
    return new_guard()


def _id(value: Any) -> str:
    return value.name if isinstance(value, Root) else str(value)


def _red(guard: Guard, root: Root, chosen: list[Place] | tuple[Place, ...], spelling: str) -> dict[str, str]:
    assert chosen
    return {place.label: why for place in chosen if (why := complaint(guard, root, place, spelling))}


@pytest.mark.parametrize("root", STABLE, ids=_id)
def test_a_known_bad_text_is_stopped_in_every_place(guard: Guard, root: Root) -> None:
    """Every string, member name and illegal enumeration value of the model is read, at its own path."""
    red = _red(guard, root, all_places(root), "plain")

    assert red == {}


@pytest.mark.parametrize(
    ("root", "spelling"),
    [(root, spelling) for root in ROOTS for spelling in SPELLINGS if root in STABLE or spelling == "plain"],
    ids=_id,
)
def test_a_known_bad_text_is_stopped_in_every_field(guard: Guard, root: Root, spelling: str) -> None:
    """The same in all spellings, each field once, on the first way to it; also of the beta client on the same route."""
    red = _red(guard, root, one_of_each(root), spelling)

    assert red == {}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("root", ROOTS, ids=_id)
def test_the_whole_matrix_is_green(guard: Guard, root: Root, spelling: str) -> None:
    """Every spelling on every way to every field."""
    red = _red(guard, root, all_places(root), spelling)

    assert red == {}


@pytest.mark.parametrize("root", [root for root in ROOTS if root.way == "stream"], ids=_id)
def test_a_text_cut_over_two_events_is_stopped_whole(guard: Guard, root: Root) -> None:
    """Where a client joins strings, the halves are judged as one text and neither event leaves."""
    growing = [place for place in all_places(root) if grows(root, place)]

    red = {place.label: why for place in growing if (why := list(split_complaints(guard, root, place)))}

    assert red == {}
    assert len(growing) >= 3


def _troubled(guard: Guard, root: Root, chosen: list[Place] | tuple[Place, ...]) -> dict[str, object]:
    red: dict[str, object] = {}
    for place in chosen:
        for text in place.legal or (BENIGN,):
            body = body_of(place, text.encode())
            action, findings, out = judge(guard, root, body)
            wanted = b"".join(events_of(root.dialect, body)) if root.way == "stream" else body
            if action is not Action.ALLOW or findings or out != wanted:
                red[f"{place.label}={text}"] = (action, findings)
    return red


@pytest.mark.parametrize("root", STABLE, ids=_id)
def test_benign_values_and_every_legal_word_pass(guard: Guard, root: Root) -> None:
    """What the protocol allows raises no finding and leaves as it came."""
    red = _troubled(guard, root, all_places(root))

    assert red == {}


@pytest.mark.slow
@pytest.mark.parametrize("root", BETA, ids=_id)
def test_benign_values_and_every_legal_word_of_the_beta_pass(guard: Guard, root: Root) -> None:
    """The same for the beta client."""
    red = _troubled(guard, root, all_places(root))

    assert red == {}


TEXT = r"(<str>|<Iterable>/0<TextBlockParam>/text)"
SURFACES = (
    ("openai request", r"(Developer|System)MessageParam>/content.*(<str>|/text)$", Surface.SYSTEM),
    ("openai request", r"UserMessageParam>/content(<str>|.*TextParam>/text)$", Surface.PROMPT),
    ("openai request", r"UserMessageParam>/content.*/file_data$", Surface.DOCUMENT),
    ("openai request", r"AssistantMessageParam>/(content(<str>|.*/text)|refusal<str>)$", Surface.RESPONSE),
    ("openai request", r"AssistantMessageParam>/(tool_calls|function_call)", Surface.TOOL_CALL),
    ("openai request", r"(Tool|Function)MessageParam>/content.*(<str>|/text)$", Surface.TOOL_RESULT),
    ("openai request", r"^/(tools|functions)/", Surface.TOOL_DEFINITION),
    ("openai answer", r"/message/(content|refusal)<str>$", Surface.RESPONSE),
    ("openai answer", r"/message/(tool_calls|function_call)", Surface.TOOL_CALL),
    ("openai stream", r"/delta/(content|refusal)<str>$", Surface.RESPONSE),
    ("openai stream", r"/delta/(tool_calls|function_call)", Surface.TOOL_CALL),
    ("anthropic request", r"^/system.*(<str>|/text)$", Surface.SYSTEM),
    ("anthropic request", rf"UserMessageParam>/content{TEXT}$", Surface.PROMPT),
    ("anthropic request", rf"AssistantMessageParam>/content{TEXT}$", Surface.RESPONSE),
    ("anthropic request", rf"SystemMessageParam>/content{TEXT}$", Surface.SYSTEM),
    ("anthropic request", r"content<Iterable>/0<DocumentBlockParam>/(?!cache)", Surface.DOCUMENT),
    ("anthropic request", r"content<Iterable>/0<SearchResultBlockParam>/(?!cache)", Surface.DOCUMENT),
    ("anthropic request", r"content<Iterable>/0<(Server)?ToolUseBlockParam>", Surface.TOOL_CALL),
    ("anthropic request", rf"<ToolResultBlockParam>/content{TEXT}$", Surface.TOOL_RESULT),
    ("anthropic request", r"^/tools/", Surface.TOOL_DEFINITION),
    ("anthropic answer", r"content/0<(Text|Thinking)Block>/(text|thinking)$", Surface.RESPONSE),
    ("anthropic answer", r"content/0<(Server)?ToolUseBlock>/", Surface.TOOL_CALL),
    ("anthropic answer", r"content/0<\w+ToolResultBlock>/content.*(title|stdout|stderr)$", Surface.TOOL_RESULT),
    ("anthropic stream", r"<(Text|Thinking)Delta>/(text|thinking)$", Surface.RESPONSE),
    ("anthropic stream", r"<InputJSONDelta>/partial_json$", Surface.TOOL_CALL),
)
"""Where texts stand in an exchange, said once more, apart from the readers."""


@pytest.mark.parametrize(("name", "pattern", "surface"), SURFACES, ids=_id)
def test_a_known_field_is_judged_as_its_surface(guard: Guard, name: str, pattern: str, surface: Surface) -> None:
    """Rules and policies are written by surface, so a field must not be judged as another."""
    root = next(root for root in ROOTS if root.name == name)
    chosen = [p for p in all_places(root) if p.kind is not Kind.ENUMERATION and re.search(pattern, p.label)]

    found = {
        place.label: {finding.surface for finding in judge(guard, root, body_of(place, SPELLINGS["plain"])).findings}
        for place in chosen
    }

    assert found
    assert {label: surfaces for label, surfaces in found.items() if surfaces != {surface}} == {}


@pytest.mark.parametrize("root", [root for root in STABLE if root.way != "stream"], ids=_id)
def test_no_object_may_have_two_members_of_one_name(root: Root) -> None:
    """In every object on the way to every place: what one parser drops, another may read."""
    read = root.dialect.ask if root.way == "ask" else root.dialect.answer
    missed = []
    for place in all_places(root):
        body = body_of(place, SPELLINGS["plain"]).decode()
        opening = [match.start() for match in re.finditer(r"\{(?!\})", body)]
        for start in opening:
            name = re.match(r'\{("[^"]*"):', body[start:])
            assert name is not None
            try:
                read(f"{body[:start]}{{{name[1]}: 0, {body[start + 1 :]}".encode())
            except InvalidInput:
                continue
            missed.append((place.label, start))

    assert missed == []


def _request(dialect: Any, **members: Any) -> dict[str, Any]:
    root = ASKS[0] if dialect is OPENAI else ASKS[1]
    return {**minimal(root.kind), **members}


def _nested(levels: int, kind: str) -> Any:
    value: Any = ATTACK
    for _ in range(levels):
        value = [value] if kind == "list" else {"deep": value}
    return value


ODD: dict[str, Any] = {
    "an unknown member": {"brand_new": ATTACK},
    "an unknown member's name": {f"x {ATTACK}": 1},
    "a list of strings": {"brand_new": ["a", ["b", ATTACK], 3]},
    "sixty lists deep": {"brand_new": _nested(60, "list")},
    "sixty objects deep": {"brand_new": _nested(60, "object")},
    "a word where a number belongs": {"max_tokens": ATTACK},
    "an object where a text belongs": {"messages": [{"role": "user", "content": {"z": ATTACK}}]},
    "a role of its own": {"messages": [{"role": ATTACK, "content": "x"}]},
    "NUL between the letters": {"user": ATTACK.replace("W", "\0W")},
    "beside half a surrogate pair": {"user": f"\ud83d {ATTACK}"},
    "under a name with half a surrogate pair": {"\ud83d": ATTACK},
    "after a megabyte": {"user": "long text, " * 100_000 + ATTACK},
    "as a member of a known name in free JSON": {"metadata": {"type": ATTACK, "role": [ATTACK]}},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("root", ASKS, ids=_id)
def test_a_known_bad_text_is_stopped_in_odd_places(guard: Guard, root: Root, odd: str) -> None:
    """What no model of the client describes is inspected too."""
    body = json.dumps(_request(root.dialect, **ODD[odd])).encode()

    outcome = judge(guard, root, body)

    assert outcome.action is Action.BLOCK
    assert RULE in {finding.rule for finding in outcome.findings}


def _block_of_blocks(levels: int, opening: str, closing: str) -> bytes:
    blocks = opening * levels + f'"{ATTACK}"' + closing * levels
    return b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":%s}]}' % blocks.encode()


@pytest.mark.parametrize("levels", [80, 450, 50_000])
@pytest.mark.parametrize(
    ("root", "opening", "closing"),
    [
        (ASKS[0], "[", "]"),
        (ASKS[1], "[", "]"),
        (ASKS[0], '{"a":', "}"),
        (ASKS[1], '{"a":', "}"),
        (ASKS[1], '[{"type":"tool_result","content":', "}]"),
        (ASKS[1], '[{"type":"document","source":{"type":"content","content":', "}}]"),
    ],
    ids=_id,
)
def test_what_nests_too_deep_is_refused(root: Root, opening: str, closing: str, levels: int) -> None:
    """A limit of ours is met before one of the interpreter, whichever reader follows the nesting."""
    body = _block_of_blocks(levels, opening, closing)

    with pytest.raises(LimitExceeded):
        root.dialect.ask(body)


REFUSED = {
    "two members of one name": b'"user": "%s", "user": "x"',
    "the same, one escaped": b'"user": "%s", "\\u0075ser": "x"',
    "the same, spaced": b'"user" : "%s", "user" \t: "x"',
    "names that differ in half a surrogate pair": b'"\\ud800x": "%s", "\\ud801x": "x"',
    "a number beyond all ranges": b'"user": "%s", "seed": 1e999',
    "an integer of five thousand digits": b'"user": "%s", "seed": ' + b"1" * 5_000,
    "a number that is none": b'"user": "%s", "seed": NaN, "x": "\\ud800"',
    "bytes that are not UTF-8": b'"user": "%s \xff"',
    "a raw line end in a string": b'"user": "%s \n"',
    "a second value": b'"user": "%s"} {',
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("root", ASKS, ids=_id)
def test_what_two_parsers_could_read_differently_is_refused(root: Root, what: str) -> None:
    """Nothing is forwarded that another parser may understand in another way."""
    odd = REFUSED[what].replace(b"%s", ATTACK.encode())
    body = json.dumps(_request(root.dialect)).encode()[:-1] + b", " + odd + b"}"

    with pytest.raises(InvalidInput):
        root.dialect.ask(body)


def test_a_picture_is_named_uninspected_and_no_more(guard: Guard) -> None:
    """Base64 of no text passes under `balanced`, but never silently."""
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"}
    message = {"role": "user", "content": [{"type": "image", "source": source}]}
    body = json.dumps(_request(ANTHROPIC, messages=[message])).encode()

    outcome = judge(guard, ASKS[1], body)

    assert [finding.category for finding in outcome.findings] == [Category.UNINSPECTED]
    assert outcome.findings[0].path == "/messages/0/content/0/source/data"
    assert outcome.action is Action.FLAG
    assert outcome.out == body


def test_the_documented_number_of_cells_is_the_generated_one(record_property: Any) -> None:
    """docs/coverage.md says how many cells there are, per kind of message and together."""
    counts = count_cells()
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text("utf-8")
    record_property("cells", sum(counts.values()))

    stated = {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"^\| ([a-z ]+) \|.*\| ([\d,]+) \|$", page, re.MULTILINE)
    }

    assert stated == {**counts, "together": sum(counts.values())}
    assert sum(counts.values()) >= FLOOR


class Leaf(pydantic.BaseModel):
    """A response model with a field under another name on the wire."""

    said: str | None = pydantic.Field(default=None, alias="saidAloud")
    kind: Literal["leaf"]
    size: int


class Tree(TypedDict, total=False):
    """A request model of all the shapes the clients use, and itself again."""

    text: Required[str]
    either: str | Iterable[Leaf]
    named: dict[str, str]
    again: "list[Tree]"


def test_the_walker_finds_every_string_of_a_model() -> None:
    """A field that the walker cannot see is a field that the matrix would not ask about."""
    found = {place.label: place.build(ATTACK) for place in places(Tree)}

    leaf = {"kind": "leaf", "size": 1}
    assert found == {
        "/text": {"text": ATTACK},
        "/either<str>": {"text": BENIGN, "either": ATTACK},
        "/either<Iterable>/0/saidAloud<str>": {"text": BENIGN, "either": [{**leaf, "saidAloud": ATTACK}]},
        "/either<Iterable>/0/kind": {"text": BENIGN, "either": [{**leaf, "kind": ATTACK}]},
        "/named/*name*": {"text": BENIGN, "named": {ATTACK: BENIGN}},
        "/named/*": {"text": BENIGN, "named": {"member": ATTACK}},
    }


def test_the_walker_refuses_a_type_it_does_not_know() -> None:
    """A client that begins to use another kind of type stops the matrix; nothing is left out in silence."""
    with pytest.raises(TypeError, match="complex"):
        list(places(list[complex]))
