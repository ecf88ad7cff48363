# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/inspect`: for those who only want the verdict. One object or a list in, the same shape out."""

import asyncio
from typing import Any

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.event import Direction, Event, Segment, Surface, event_id
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Action, Verdict, strictest
from shieldwall.gateway.wire import decode

__all__ = ["Item", "answer_of", "inspect", "read_item"]

_MAX_ITEMS = 1_000
"""Items of one list; each becomes a record of its own."""


class Item(msgspec.Struct, frozen=True):
    """One text to inspect."""

    text: str
    surface: Surface = Surface.PROMPT


def read_item(value: Any) -> Item:  # noqa: ANN401  decoded JSON
    """Read one object. Raises InvalidInput naming the member at fault."""
    if not isinstance(value, dict):
        raise InvalidInput("each item must be an object with a `text`")
    if not isinstance(value.get("text"), str):
        raise InvalidInput("`text` must be a string", where="/text")
    surface = value.get("surface", "prompt")
    if surface == "user":
        surface = "prompt"
    elif surface == "tool_output":
        surface = "tool_result"
    try:
        return Item(value["text"], Surface(surface))
    except ValueError:
        words = ", ".join(each.value for each in Surface)
        raise InvalidInput("`surface` is not a known word", where="/surface", hint=f"one of {words}") from None


def answer_of(verdict: Verdict) -> dict[str, Any]:
    """The part of a verdict that answers an inspection."""
    return {
        "action": verdict.action,
        "score": verdict.score,
        "findings": verdict.findings,
        "complete": verdict.complete,
    }


async def inspect(guard: Guard, event: Event, body: bytes, at: Surroundings) -> tuple[bytes, Action, int | None]:
    """Judge and record each item; one that cannot be read becomes an error object, the others go on."""
    value = decode(body)
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_ITEMS:
        raise InvalidInput(f"more than {_MAX_ITEMS} items in one list", hint="send several requests")
    pending: list[Any] = []
    for index, item in enumerate(items):
        try:
            read = read_item(item)
        except InvalidInput as error:
            if not isinstance(value, list):
                raise
            pending.append({"error": {"message": str(error), "where": error.where, "hint": error.hint}})
            continue
        direction = Direction.RESPONSE if read.surface is Surface.RESPONSE else Direction.REQUEST
        # Each item is an event of its own; the first keeps the id that the answer's header names.
        name = event.id if index == 0 else event_id(at.clock(), at.entropy(10))
        segments = (Segment(read.text, surface=read.surface),)
        one = msgspec.structs.replace(event, id=name, direction=direction, segments=segments)
        pending.append(await guard.ajudge(one))
        # What is quickly judged does not let go of the loop by itself, and there may be a thousand of it.
        await asyncio.sleep(0)
    entry: int | None = None
    actions: list[Action] = []
    answers: list[Any] = []
    for judged in pending:
        if isinstance(judged, dict):
            answers.append(judged)
            continue
        if judged.recorded is not None:
            index = await judged.recorded
            entry = index if entry is None else entry
        actions.append(judged.verdict.action)
        answers.append(answer_of(judged.verdict))
    return msgspec.json.encode(answers if isinstance(value, list) else answers[0]), strictest(actions), entry
