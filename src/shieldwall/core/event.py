# SPDX-License-Identifier: Apache-2.0
"""What is judged: an event holds segments of text, each with its place in the wire message.

The closed word sets are those of the contracts; an unknown word from outside is an error for that item only.
"""

import enum
from datetime import UTC, datetime

import msgspec

__all__ = ["Direction", "Event", "Role", "Segment", "Surface", "Trust", "event_id", "utc"]


class Surface(enum.StrEnum):
    """Where in an exchange a text stands."""

    PROMPT = "prompt"
    SYSTEM = "system"
    DOCUMENT = "document"
    TOOL_DEFINITION = "tool_definition"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    RESPONSE = "response"
    TELEMETRY = "telemetry"
    UNKNOWN = "unknown"


class Role(enum.StrEnum):
    """Who speaks, in the words of the chat protocols."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Trust(enum.StrEnum):
    """Who could have written the text; not who claims to have."""

    OPERATOR = "operator"
    USER = "user"
    MODEL = "model"
    UNTRUSTED = "untrusted"


class Direction(enum.StrEnum):
    """Towards the model, or back from it."""

    REQUEST = "request"
    RESPONSE = "response"


class Segment(msgspec.Struct, frozen=True, gc=False):
    """One string of a message."""

    text: str
    """The string as the client or the model wrote it, JSON escapes resolved."""
    role: Role = Role.USER
    surface: Surface = Surface.PROMPT
    trust: Trust = Trust.USER
    path: str = ""
    """JSON Pointer (RFC 6901) into the wire message; for a stream, into the assembled message."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to judge: one direction of an exchange with a model, a tool call, or a log record."""

    id: str
    """UUIDv7, as text."""
    time: datetime
    """UTC with microseconds."""
    tenant: str = ""
    principal: str = ""
    """Name of the key that was used; never the key."""
    model: str = ""
    route: str = ""
    dialect: str = ""
    direction: Direction = Direction.REQUEST
    session: str = ""
    """Stable over the turns of one conversation of one key."""
    segments: tuple[Segment, ...] = ()


def utc(time_ns: int) -> datetime:
    """Nanoseconds since the epoch as a UTC datetime with microseconds."""
    return datetime.fromtimestamp(time_ns // 1_000 / 1_000_000, UTC)


def event_id(time_ns: int, entropy: bytes) -> str:
    """UUIDv7 (RFC 9562 section 5.7) from a time and ten random bytes.

    Args:
        time_ns: Nanoseconds since the epoch.
        entropy: Ten random bytes; the caller owns the randomness, core has none.
    """
    raw = (time_ns // 1_000_000).to_bytes(6, "big") + entropy[:10]
    value = int.from_bytes(raw, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
