# SPDX-License-Identifier: Apache-2.0
"""The Anthropic dialect: messages, JSON and streamed.

Source: the typed models of the `anthropic` client, which the coverage test walks field by field.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.core.event import Role, Segment, Surface, Trust
from shieldwall.core.verdict import Finding
from shieldwall.gateway.dialect import Ask, Delta, Increment, Refusal, opened
from shieldwall.gateway.wire import MAX_DEPTH, Leaves, Place, decode, ordinal, pointer, refuse_duplicates

__all__ = ["Anthropic"]

_SYSTEM = Place(Role.SYSTEM, Surface.SYSTEM, Trust.OPERATOR)
_USER = Place(Role.USER, Surface.PROMPT, Trust.USER)
_ASSISTANT = Place(Role.ASSISTANT, Surface.RESPONSE, Trust.MODEL)
_CALL = Place(Role.ASSISTANT, Surface.TOOL_CALL, Trust.MODEL)
_RESULT = Place(Role.TOOL, Surface.TOOL_RESULT, Trust.UNTRUSTED)
_TOOLS = Place(Role.SYSTEM, Surface.TOOL_DEFINITION, Trust.UNTRUSTED)
_DOCUMENT = Place(Role.USER, Surface.DOCUMENT, Trust.UNTRUSTED)
_UNKNOWN = Place(Role.USER, Surface.UNKNOWN, Trust.UNTRUSTED)

_SPEAKERS = {"user": _USER, "assistant": _ASSISTANT, "system": _SYSTEM}

# A name that is missing here is inspected: safe, only slower.
_KNOWN = frozenset(
    """
    budget_tokens cache_control cache_creation cache_creation_input_tokens cache_read_input_tokens caller citations
    cited_text container content content_block context data delta description disable_parallel_tool_use
    document_index document_title effort encrypted_content encrypted_index end_block_index end_char_index
    end_page_number ephemeral_1h_input_tokens ephemeral_5m_input_tokens error expires_at file_id format id index
    inference_geo input input_examples input_schema input_tokens is_error max_tokens max_uses media_type message
    messages metadata model name output_config output_tokens page_age partial_json properties required role schema
    server_tool_use service_tier signature source start_block_index start_char_index start_page_number stop_details
    stop_reason stop_sequence stop_sequences stream strict system temperature text thinking title tool_choice
    tool_use_id tools top_k top_p ttl type url usage user_id user_location web_fetch_requests web_search_requests
    additionalProperties items enum anyOf minimum maximum default request_id display category explanation
    allowed_callers defer_loading eager_input_streaming
    """.split()
)
_BLOCKS = """text image document search_result thinking redacted_thinking tool_use tool_result server_tool_use
web_search_tool_result
    web_fetch_tool_result code_execution_tool_result bash_code_execution_tool_result
    text_editor_code_execution_tool_result container_upload tool_reference web_search_result web_fetch_result"""
_EVENTS = """message_start message_delta message_stop content_block_start content_block_delta content_block_stop ping
error
    text_delta input_json_delta thinking_delta signature_delta citations_delta"""
_ENUMERATIONS = {
    "role": frozenset({"user", "assistant", "system"}),
    "type": frozenset(
        (_BLOCKS + " " + _EVENTS).split()
        + """message base64 url file content ephemeral auto any tool none enabled disabled adaptive custom object array
        string number integer boolean null char_location page_location content_block_location web_search_result_location
        search_result_location json_schema direct""".split()
    ),
    "media_type": frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf", "text/plain"}),
    "stop_reason": frozenset(
        {
            "end_turn",
            "max_tokens",
            "stop_sequence",
            "tool_use",
            "pause_turn",
            "refusal",
            "model_context_window_exceeded",
        }
    ),
    "service_tier": frozenset({"auto", "standard", "standard_only", "batch", "priority"}),
    "ttl": frozenset({"5m", "1h"}),
    "effort": frozenset({"low", "medium", "high", "xhigh", "max"}),
    "display": frozenset({"summarized", "omitted"}),
}
_EVENT_NAMES = frozenset(_EVENTS.split())
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\r\n-]*", re.ASCII)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Anthropic:
    """Messages as the `anthropic` clients send and expect them."""

    name = "anthropic"
    route = "/messages"

    def ask(self, body: bytes) -> Ask:
        """Read a messages request. Raises InvalidInput."""
        value, model, stream = opened(body)
        leaves = Leaves(_KNOWN, _ENUMERATIONS)
        leaves.members += len(value)
        turns: list[tuple[int, int]] = []
        for name, item in value.items():
            if name == "messages":
                for index, message in enumerate(item):
                    start = len(leaves.segments)
                    _message(leaves, message, f"/messages/{index}")
                    turns.append((start, len(leaves.segments)))
            elif name == "system":
                _content(leaves, item, "/system", _SYSTEM)
            else:
                leaves.member(name, item, f"/{pointer(name)}", _TOOLS if name in ("tools", "mcp_servers") else _UNKNOWN)
        refuse_duplicates(body, leaves.members)
        return Ask(model, stream, tuple(leaves.segments), leaves.uninspected, turns)

    def answer(self, body: bytes) -> tuple[tuple[Segment, ...], Sequence[Finding]]:
        """Read a message, or an error object. Raises InvalidInput."""
        value = decode(body)
        leaves = Leaves(_KNOWN, _ENUMERATIONS)
        if isinstance(value, dict):
            _answer(leaves, value, "")
        else:
            leaves.walk(value, "", _UNKNOWN)
        refuse_duplicates(body, leaves.members)
        return tuple(leaves.segments), leaves.uninspected

    def deltas(self, name: str, value: Any) -> Increment:  # noqa: ANN401  decoded JSON
        """Read one event of a message stream."""
        leaves = Leaves(_KNOWN, _ENUMERATIONS)
        if name not in _EVENT_NAMES:
            leaves.text(name, "/event", _UNKNOWN)
        deltas: list[Delta] = []
        complete: list[str] = []
        if not isinstance(value, dict):
            leaves.walk(value, "", _UNKNOWN)
        else:
            kind = value.get("type")
            block = f"/content/{ordinal(value.get('index'), 0)}"
            leaves.members += len(value)
            for member, item in value.items():
                if member == "content_block" and isinstance(item, dict):
                    _start(leaves, item, block, deltas)
                elif member == "delta" and isinstance(item, dict):
                    _delta(leaves, item, "" if kind == "message_delta" else block, deltas)
                elif member == "message" and isinstance(item, dict):
                    _answer(leaves, item, "")
                else:
                    leaves.member(member, item, f"/{pointer(member)}", _UNKNOWN)
            if kind == "content_block_stop":
                complete.append(block)
        for segment in leaves.segments:
            place = Place(segment.role, segment.surface, segment.trust)
            deltas.append(Delta(segment.path, segment.text, place, grows=False))
        return Increment(deltas, complete, leaves.members, leaves.uninspected)

    def is_last(self, name: str, data: bytes) -> bool:  # noqa: ARG002  the other dialect reads it there
        """`message_stop` ends a stream."""
        return name == "message_stop"

    def error(self, refusal: Refusal, event: str) -> bytes:
        """`{"type": "error", …}` as the client's exceptions expect it."""
        kind = _TYPES.get(refusal.status, "api_error" if refusal.status >= 500 else "invalid_request_error")
        where = f" (at {refusal.where})" if refusal.where else ""
        error = {"type": kind, "message": refusal.message + where, "code": refusal.code or refusal.kind}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": event or None})

    def stream_error(self, refusal: Refusal, event: str) -> bytes:
        """An event the client raises as `APIStatusError`."""
        return b"event: error\ndata: " + self.error(refusal, event) + b"\n\n"


def _message(leaves: Leaves, message: Any, path: str) -> None:  # noqa: ANN401
    if not isinstance(message, dict):
        raise InvalidInput("each message must be an object", where=path)
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidInput("each message needs a `role`", where=f"{path}/role")
    place = _SPEAKERS.get(role, _UNKNOWN)
    leaves.members += len(message)
    for name, item in message.items():
        if name == "content":
            _content(leaves, item, f"{path}/content", place)
        else:
            leaves.member(name, item, f"{path}/{pointer(name)}", _UNKNOWN)


def _answer(leaves: Leaves, message: dict[str, Any], path: str) -> None:
    leaves.members += len(message)
    for name, item in message.items():
        here = f"{path}/{pointer(name)}"
        if name == "content":
            _content(leaves, item, here, _ASSISTANT)
        else:
            leaves.member(name, item, here, _UNKNOWN)


def _content(leaves: Leaves, content: Any, path: str, place: Place, depth: int = 0) -> None:  # noqa: ANN401
    if depth >= MAX_DEPTH:
        raise LimitExceeded(f"nested deeper than {MAX_DEPTH}", where=path[:200])
    if isinstance(content, str):
        leaves.text(content, path, place)
    elif isinstance(content, list):
        for index, block in enumerate(content):
            _block(leaves, block, f"{path}/{index}", place, depth + 1)
    elif isinstance(content, dict):
        _block(leaves, content, path, place, depth)


def _block(leaves: Leaves, block: Any, path: str, place: Place, depth: int = 0) -> None:  # noqa: ANN401
    """One content block. What is inside a tool result or a document is untrusted, whoever sends it."""
    if not isinstance(block, dict):
        leaves.walk(block, path, place, depth)
        return
    kind = block.get("type")
    inner = _place(kind if isinstance(kind, str) else "", place)
    leaves.members += len(block)
    for name, item in block.items():
        here = f"{path}/{pointer(name)}"
        if name == "content" and inner.surface in (Surface.TOOL_RESULT, Surface.DOCUMENT):
            _content(leaves, item, here, inner, depth + 1)
        elif name == "source" and isinstance(item, dict):
            _source(leaves, item, here, _DOCUMENT, depth + 1)
        elif name in ("signature", "data") and kind in ("thinking", "redacted_thinking") and isinstance(item, str):
            _opaque(leaves, item, here, inner)
        else:
            leaves.member(name, item, here, inner, depth)


def _place(kind: str, place: Place) -> Place:
    if kind.endswith("tool_use"):
        return _CALL
    if kind.endswith("tool_result"):
        return _RESULT
    if kind in ("document", "search_result"):
        return _DOCUMENT
    return place


def _source(leaves: Leaves, source: dict[str, Any], path: str, place: Place, depth: int) -> None:
    """Where a document or image comes from: plain text, blocks, an address, or base64."""
    leaves.members += len(source)
    binary = source.get("type") == "base64"
    textual = str(source.get("media_type", "")).lower().startswith("text/")
    for name, item in source.items():
        here = f"{path}/{pointer(name)}"
        if name == "data" and binary and not textual and isinstance(item, str) and _BASE64.fullmatch(item):
            leaves.binary(here, place.surface, "binary")
        elif name == "content":
            _content(leaves, item, here, place, depth + 1)
        else:
            leaves.member(name, item, here, place, depth)


def _opaque(leaves: Leaves, item: str, path: str, place: Place) -> None:
    """The provider's own sealed bytes. Anything that is not base64 there is text, and read as such."""
    if _BASE64.fullmatch(item) is None:
        leaves.text(item, path, place)
    elif path.endswith("/data"):
        leaves.binary(path, place.surface, "encrypted")
    else:
        # A signature carries no content: it is short, checked by the provider, and read here like any other string.
        leaves.text(item, path, place)


def _start(leaves: Leaves, block: dict[str, Any], path: str, deltas: list[Delta]) -> None:
    """The first state of a block; its text fields grow from here."""
    inner = Leaves(_KNOWN, _ENUMERATIONS)
    _block(inner, block, path, _ASSISTANT)
    leaves.members += inner.members
    leaves.uninspected.extend(inner.uninspected)
    for number, segment in enumerate(inner.segments):
        place = Place(segment.role, segment.surface, segment.trust)
        grows = segment.path.removeprefix(path) in _GROWING
        # Ids and names of a call grow too, in that they wait for the rest of it: a call leaves when it is whole.
        if grows or (place.surface is Surface.TOOL_CALL and number not in inner.names):
            deltas.append(Delta(segment.path, segment.text, place, grows=True))
        if not grows:
            deltas.append(Delta(segment.path, segment.text, place, grows=False))


_GROWING = frozenset({"/text", "/thinking", "/input"})
"""Below a block: what deltas continue. The rest of a block is whole when it starts."""

_GROWS = {
    "text": ("text", _ASSISTANT),
    "thinking": ("thinking", _ASSISTANT),
    "partial_json": ("input", _CALL),
}


def _delta(leaves: Leaves, delta: dict[str, Any], path: str, deltas: list[Delta]) -> None:
    """What one event adds to a block, or to the message when `path` is empty."""
    leaves.members += len(delta)
    for name, item in delta.items():
        grows = _GROWS.get(name) if path else None
        if grows is not None and isinstance(item, str):
            deltas.append(Delta(f"{path}/{grows[0]}", item, grows[1], grows=True))
        else:
            leaves.member(name, item, f"{path}/{pointer(name)}", _ASSISTANT if path else _UNKNOWN)
