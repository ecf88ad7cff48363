# SPDX-License-Identifier: Apache-2.0
"""The OpenAI dialect: chat completions, JSON and streamed.

Source: the typed models of the `openai` client, which the coverage test walks field by field.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.event import Role, Segment, Surface, Trust
from shieldwall.core.verdict import Finding
from shieldwall.gateway.dialect import Ask, Delta, Increment, Refusal, opened
from shieldwall.gateway.wire import Leaves, Place, decode, ordinal, pointer, refuse_duplicates

__all__ = ["OpenAI"]

_SYSTEM = Place(Role.SYSTEM, Surface.SYSTEM, Trust.OPERATOR)
_USER = Place(Role.USER, Surface.PROMPT, Trust.USER)
_ASSISTANT = Place(Role.ASSISTANT, Surface.RESPONSE, Trust.MODEL)
_CALL = Place(Role.ASSISTANT, Surface.TOOL_CALL, Trust.MODEL)
_RESULT = Place(Role.TOOL, Surface.TOOL_RESULT, Trust.UNTRUSTED)
_TOOLS = Place(Role.SYSTEM, Surface.TOOL_DEFINITION, Trust.UNTRUSTED)
_UNKNOWN = Place(Role.USER, Surface.UNKNOWN, Trust.UNTRUSTED)
_DOCUMENT = Place(Role.USER, Surface.DOCUMENT, Trust.UNTRUSTED)

_SPEAKERS = {
    "system": _SYSTEM,
    "developer": _SYSTEM,
    "user": _USER,
    "assistant": _ASSISTANT,
    "tool": _RESULT,
    "function": _RESULT,
}

# Member names and enumeration values the protocol defines. A name that is missing here is inspected: safe, only slower.
_KNOWN = frozenset(
    """
    annotations arguments allowed_tools approximate assistant audio aud choices city code completion_tokens
    completion_tokens_details content country created custom custom_tool_call data definition delta description detail
    effort end_index error expires_at file file_data file_id filename finish_reason format frequency_penalty function
    function_call functions grammar id image_url index input input_audio json_schema location logit_bias logprob
    logprobs max_completion_tokens max_tokens message messages metadata modalities mode model moderation n name object
    parallel_tool_calls param parameters prediction presence_penalty prompt_cache_key prompt_cache_retention
    prompt_tokens prompt_tokens_details properties reasoning reasoning_content reasoning_effort refusal region required
    response_format role safety_identifier schema search_context_size seed service_tier start_index stop store stream
    stream_options strict syntax system_fingerprint temperature text timezone title token tool_call_id tool_calls
    tool_choice tools top_logprobs top_p total_tokens transcript type url url_citation usage user user_location
    verbosity voice web_search_options include_usage include_obfuscation cached_tokens audio_tokens reasoning_tokens
    accepted_prediction_tokens rejected_prediction_tokens bytes obfuscation additionalProperties items enum anyOf
    minimum maximum default
    """.split()
)
_ENUMERATIONS = {
    "role": frozenset({"system", "developer", "user", "assistant", "tool", "function"}),
    "type": frozenset(
        """text image_url input_audio file function custom json_schema json_object object array string number integer
        boolean null refusal url_citation content grammar approximate allowed_tools ephemeral""".split()
    ),
    "object": frozenset({"chat.completion", "chat.completion.chunk", "list", "model"}),
    "finish_reason": frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"}),
    "detail": frozenset({"auto", "low", "high", "original"}),
    "tool_choice": frozenset({"auto", "none", "required"}),
    "function_call": frozenset({"auto", "none"}),
    "reasoning_effort": frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"}),
    "service_tier": frozenset({"auto", "default", "flex", "scale", "priority"}),
    "verbosity": frozenset({"low", "medium", "high"}),
    "mode": frozenset({"auto", "required"}),
}

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,200};base64,", re.ASCII | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\r\n-]+", re.ASCII)
_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
}


class OpenAI:
    """Chat completions as the `openai` clients send and expect them."""

    name = "openai"
    route = "/chat/completions"

    def ask(self, body: bytes) -> Ask:
        """Read a chat completion request. Raises InvalidInput."""
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
            else:
                place = _TOOLS if name in ("tools", "functions") else _UNKNOWN
                leaves.member(name, item, f"/{pointer(name)}", place)
        refuse_duplicates(body, leaves.members)
        return Ask(model, stream, tuple(leaves.segments), leaves.uninspected, turns)

    def answer(self, body: bytes) -> tuple[tuple[Segment, ...], Sequence[Finding]]:
        """Read a chat completion, or an error object. Raises InvalidInput."""
        value = decode(body)
        leaves = Leaves(_KNOWN, _ENUMERATIONS)
        if isinstance(value, dict):
            leaves.members += len(value)
            for name, item in value.items():
                if name == "choices" and isinstance(item, list):
                    for index, choice in enumerate(item):
                        _choice(leaves, choice, f"/choices/{index}")
                else:
                    leaves.member(name, item, f"/{pointer(name)}", _UNKNOWN)
        else:
            leaves.walk(value, "", _UNKNOWN)
        refuse_duplicates(body, leaves.members)
        return tuple(leaves.segments), leaves.uninspected

    def deltas(self, name: str, value: Any) -> Increment:  # noqa: ANN401  decoded JSON
        """Read one `chat.completion.chunk`."""
        leaves = Leaves(_KNOWN, _ENUMERATIONS)
        leaves.text(name, "/event", _UNKNOWN)
        deltas: list[Delta] = []
        complete: list[str] = []
        if not isinstance(value, dict):
            leaves.walk(value, "", _UNKNOWN)
        else:
            leaves.members += len(value)
            for member, item in value.items():
                if member == "choices" and isinstance(item, list):
                    for position, choice in enumerate(item):
                        _chunk_choice(leaves, choice, position, deltas, complete)
                elif item.__class__ is str or isinstance(item, (dict, list)) or member not in _KNOWN:
                    leaves.member(member, item, f"/{pointer(member)}", _UNKNOWN)
        for segment in leaves.segments:
            place = Place(segment.role, segment.surface, segment.trust)
            deltas.append(Delta(segment.path, segment.text, place, grows=False))
        return Increment(deltas, complete, leaves.members, leaves.uninspected)

    def is_last(self, name: str, data: bytes) -> bool:
        """`[DONE]` ends a stream."""
        return not name and data == b"[DONE]"

    def error(self, refusal: Refusal, event: str) -> bytes:
        """`{"error": {...}}` as the client's exceptions expect it."""
        return msgspec.json.encode({"error": _error(refusal, event)})

    def stream_error(self, refusal: Refusal, event: str) -> bytes:
        """An event the client raises as `APIError` with `.code`."""
        return b"data: " + self.error(refusal, event) + b"\n\n"


def _error(refusal: Refusal, event: str) -> dict[str, str | None]:
    kind = _TYPES.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    return {
        "message": refusal.message,
        "type": kind,
        "param": refusal.where or None,
        "code": refusal.code or refusal.kind,
        "event": event or None,
    }


def _message(leaves: Leaves, message: Any, path: str) -> None:  # noqa: ANN401
    if not isinstance(message, dict):
        raise InvalidInput("each message must be an object", where=path)
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidInput("each message needs a `role`", where=f"{path}/role")
    place = _SPEAKERS.get(role, _UNKNOWN)
    leaves.members += len(message)
    for name, item in message.items():
        here = f"{path}/{pointer(name)}"
        if name == "content":
            _content(leaves, item, here, place)
        elif name in ("tool_calls", "function_call"):
            leaves.member(name, item, here, _CALL)
        elif name == "audio":
            _audio(leaves, item, here, place)
        else:
            leaves.member(
                name, item, here, place if name in ("refusal", "reasoning_content", "reasoning") else _UNKNOWN
            )


def _content(leaves: Leaves, content: Any, path: str, place: Place) -> None:  # noqa: ANN401
    if isinstance(content, str):
        leaves.text(content, path, place)
    elif isinstance(content, list):
        for index, part in enumerate(content):
            _part(leaves, part, f"{path}/{index}", place)
    elif content is not None:
        leaves.walk(content, path, place)


def _part(leaves: Leaves, part: Any, path: str, place: Place) -> None:  # noqa: ANN401
    """One content part. Text and unknown parts keep the speaker's place; binaries are named."""
    if not isinstance(part, dict):
        leaves.walk(part, path, place)
        return
    leaves.members += len(part)
    for name, item in part.items():
        here = f"{path}/{pointer(name)}"
        if name == "image_url" and isinstance(item, dict):
            leaves.members += len(item)
            for key, inner in item.items():
                _binary_or_text(leaves, key, inner, f"{here}/{pointer(key)}", "url", _UNKNOWN)
        elif name in ("input_audio", "audio") and isinstance(item, dict):
            _audio(leaves, item, here, _UNKNOWN)
        elif name == "file" and isinstance(item, dict):
            leaves.members += len(item)
            for key, inner in item.items():
                _binary_or_text(leaves, key, inner, f"{here}/{pointer(key)}", "file_data", _DOCUMENT)
        else:
            leaves.member(name, item, here, place)


def _audio(leaves: Leaves, audio: Any, path: str, place: Place) -> None:  # noqa: ANN401
    if not isinstance(audio, dict):
        leaves.walk(audio, path, place)
        return
    leaves.members += len(audio)
    for name, item in audio.items():
        _binary_or_text(leaves, name, item, f"{path}/{pointer(name)}", "data", place)


def _binary_or_text(leaves: Leaves, name: str, item: Any, path: str, carrier: str, place: Place) -> None:  # noqa: ANN401
    """A member that may carry base64. Only what really is base64 of no text type is let by as `uninspected`."""
    if name == carrier and isinstance(item, str):
        head = _DATA_URL.match(item)
        kind = (head[1] or "") if head else ""
        payload = item[head.end() :] if head else item
        textual = kind.lower().startswith("text/") or "json" in kind.lower() or "xml" in kind.lower()
        if (head or carrier != "url") and not textual and _BASE64.fullmatch(payload):
            leaves.binary(path, place.surface, "binary")
            return
    leaves.member(name, item, path, place)


def _choice(leaves: Leaves, choice: Any, path: str) -> None:  # noqa: ANN401
    if not isinstance(choice, dict):
        leaves.walk(choice, path, _UNKNOWN)
        return
    leaves.members += len(choice)
    for name, item in choice.items():
        here = f"{path}/{pointer(name)}"
        if name == "message" and isinstance(item, dict):
            leaves.members += len(item)
            for key, inner in item.items():
                _spoken(leaves, key, inner, f"{here}/{pointer(key)}")
        else:
            leaves.member(name, item, here, _ASSISTANT if name == "logprobs" else _UNKNOWN)


def _spoken(leaves: Leaves, name: str, item: Any, path: str) -> None:  # noqa: ANN401
    """One member of what the model said."""
    if name in ("tool_calls", "function_call"):
        leaves.member(name, item, path, _CALL)
    elif name == "audio":
        _audio(leaves, item, path, _ASSISTANT)
    else:
        leaves.member(name, item, path, _ASSISTANT)


def _chunk_choice(leaves: Leaves, choice: Any, position: int, deltas: list[Delta], complete: list[str]) -> None:  # noqa: ANN401
    if not isinstance(choice, dict):
        leaves.walk(choice, f"/choices/{position}", _UNKNOWN)
        return
    leaves.members += len(choice)
    path = f"/choices/{ordinal(choice.get('index'), position)}"
    for name, item in choice.items():
        if name == "delta" and isinstance(item, dict):
            _delta(leaves, item, f"{path}/message", deltas)
        elif name == "finish_reason":
            if item is not None:
                complete.append(path)
            leaves.member(name, item, f"{path}/finish_reason", _UNKNOWN)
        else:
            leaves.member(name, item, f"{path}/{pointer(name)}", _ASSISTANT if name == "logprobs" else _UNKNOWN)


def _delta(leaves: Leaves, delta: dict[str, Any], path: str, deltas: list[Delta]) -> None:
    """What one chunk adds to the message. Every string grows the field it belongs to."""
    leaves.members += len(delta)
    for name, item in delta.items():
        if item.__class__ is str:
            if name != "role" or item not in _ENUMERATIONS["role"]:
                _continue(f"{path}/{pointer(name)}", item, _ASSISTANT, deltas)
            if name not in _KNOWN:
                leaves.text(name, f"{path}/{pointer(name)}", _UNKNOWN)
        elif name == "tool_calls" and isinstance(item, list):
            for position, call in enumerate(item):
                number = ordinal(call.get("index") if isinstance(call, dict) else None, position)
                _grow(leaves, call, f"{path}/tool_calls/{number}", _CALL, deltas)
        elif isinstance(item, (dict, list)):
            place = _CALL if name in ("function_call", "tool_calls") else _ASSISTANT
            _grow(leaves, item, f"{path}/{pointer(name)}", place, deltas)
            if name not in _KNOWN:
                leaves.text(name, f"{path}/{pointer(name)}", _UNKNOWN)
        elif name not in _KNOWN:
            leaves.text(name, f"{path}/{pointer(name)}", _UNKNOWN)


def _grow(leaves: Leaves, value: Any, path: str, place: Place, deltas: list[Delta]) -> None:  # noqa: ANN401
    """Every string below a streamed member, as a growing field of its own. Names do not grow."""
    inner = Leaves(_KNOWN, _ENUMERATIONS)
    if path.endswith("/message/audio"):
        _audio(inner, value, path, place)
    else:
        inner.walk(value, path, place)
    leaves.members += inner.members
    leaves.uninspected.extend(inner.uninspected)
    for number, segment in enumerate(inner.segments):
        if number in inner.names:
            deltas.append(Delta(segment.path, segment.text, place, grows=False))
        else:
            _continue(segment.path, segment.text, place, deltas)


_JOINED = frozenset("arguments content data input reasoning reasoning_content refusal transcript".split())
"""Streamed texts that every client joins. Of the rest (ids, names) some join the pieces, some keep the last one."""


def _continue(path: str, text: str, place: Place, deltas: list[Delta]) -> None:
    """A streamed string, as each client may read it: joined to what came before it, or by itself."""
    name = path.rpartition("/")[2]
    if name not in ("type", "index"):
        deltas.append(Delta(path, text, place, grows=True))
    if name not in _JOINED:
        deltas.append(Delta(path, text, place, grows=False))
