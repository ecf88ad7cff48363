# SPDX-License-Identifier: Apache-2.0
"""What the gateway needs to know of a client's protocol; `openai` and `anthropic` are the two it speaks."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from shieldwall.core.errors import InvalidInput
from shieldwall.core.event import Segment
from shieldwall.core.verdict import Finding
from shieldwall.gateway.wire import Place, decode

__all__ = ["Ask", "Delta", "Dialect", "Increment", "Refusal", "opened"]


class Ask(NamedTuple):
    """A request, read."""

    model: str
    stream: bool
    segments: tuple[Segment, ...]
    uninspected: Sequence[Finding]
    turns: Sequence[tuple[int, int]]
    """Half-open ranges of `segments`, one per message, in order: what a session is recognised by."""


class Delta(NamedTuple):
    """One string of one streamed event."""

    path: str
    """JSON Pointer into the assembled message."""
    text: str
    place: Place
    grows: bool
    """True where the text continues a field; false where it repeats or replaces a whole value."""


class Increment(NamedTuple):
    """One streamed event, read."""

    deltas: list[Delta]
    complete: Sequence[str]
    """Paths whose fields, and all below them, are whole with this event."""
    members: int
    """Object members seen, to be compared with those the bytes hold."""
    uninspected: Sequence[Finding]


class Refusal(NamedTuple):
    """An error as the gateway means it, before it is put into a dialect's words."""

    status: int
    kind: str
    """invalid_request | authentication | permission | not_found | too_large | rate_limit | overloaded | upstream |
    timeout."""
    message: str
    where: str = ""
    code: str = ""


class Dialect(Protocol):
    """Reads one protocol's messages and writes its errors. Keeps no state."""

    name: str
    route: str
    """Path of the guarded route, below `/v1`."""

    def ask(self, body: bytes) -> Ask:
        """Read a request. Raises InvalidInput."""

    def answer(self, body: bytes) -> tuple[tuple[Segment, ...], Sequence[Finding]]:
        """Read a whole answer, or an upstream's error object. Raises InvalidInput."""

    def deltas(self, name: str, value: Any) -> Increment:  # noqa: ANN401  decoded JSON
        """Read one streamed event: its name, empty if it has none, and its decoded data."""

    def is_last(self, name: str, data: bytes) -> bool:
        """Whether this event announces the end of the stream."""

    def error(self, refusal: Refusal, event: str) -> bytes:
        """Body of an error answer."""

    def stream_error(self, refusal: Refusal, event: str) -> bytes:
        """The same as an event in mid-stream; the client raises it."""


def opened(body: bytes) -> tuple[dict[str, Any], str, bool]:
    """What every request with messages has: the object, its model, and whether a stream is asked for.

    Raises:
        InvalidInput: It is no such object; `where` names the member at fault. `messages` is a list that is not empty.
    """
    value = decode(body)
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidInput("`model` must be a non-empty string", where="/model")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("`messages` must be a non-empty list", where="/messages")
    stream = value.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidInput("`stream` must be true or false", where="/stream")
    return value, model, bool(stream)
