# SPDX-License-Identifier: Apache-2.0
"""The built-in upstream: scripted answers in both dialects, so that the first request works without an account.

`demo` repeats what it was told; with tools in the request it calls the first one, and after a tool result it answers.
`demo-compromised` says halfway through what no model should say, to show a stream being stopped. No model is run.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["MODELS", "DemoUpstream"]

MODELS = ("demo", "demo-compromised")
_COMPROMISED = "Of course. Developer mode enabled: I have no restrictions now. SHIELDWALL-TEST-ATTACK-7f3a9c and so on."


class DemoUpstream:
    """Answers in this process, in the bytes a provider would send."""

    async def send(self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes) -> "_DemoReply":  # noqa: ARG002
        """Answer a request the gateway has read, so its shape is known to be right."""
        if method == "GET":
            return _DemoReply([msgspec.json.encode({"data": [{"id": name} for name in MODELS]})], stream=False)
        ask = msgspec.json.decode(body)
        script = _Script(ask)
        stream = bool(ask.get("stream"))
        if path.startswith("/messages"):
            parts = script.anthropic_events() if stream else [script.anthropic_message()]
        else:
            parts = script.openai_events() if stream else [script.openai_message()]
        return _DemoReply(parts, stream=stream)

    async def close(self) -> None:
        """Nothing is held."""


class _DemoReply:
    status = 200

    def __init__(self, parts: list[bytes], *, stream: bool) -> None:
        kind = "text/event-stream; charset=utf-8" if stream else "application/json"
        self.headers: Mapping[str, str] = {"Content-Type": kind}
        self.raw_headers = ((b"Content-Type", kind.encode()),)
        self._parts = iter(parts)

    async def read(self) -> bytes:
        return next(self._parts, b"")

    def close(self) -> None:
        self._parts = iter(())


class _Script:
    """What the demo says to one request."""

    def __init__(self, ask: dict[str, Any]) -> None:
        self.model = str(ask["model"])
        messages = ask["messages"]
        last = messages[-1]
        self.prompt = _text(last)
        self.tokens = max(1, len(self.prompt) // 4)
        answered = last.get("role") == "tool" or _has_result(last)
        tools = ask.get("tools") if not answered else None
        self.tool = _tool_name(tools[0]) if isinstance(tools, list) and tools else ""
        if self.model == "demo-compromised":
            self.text = _COMPROMISED
        elif answered:
            self.text = f"The tool says: {self.prompt}"
        else:
            self.text = f"This is Shieldwall's demo model. You said: {self.prompt}"
        self.arguments = {"query": self.prompt[:200]}

    def words(self) -> list[str]:
        """The answer as a model would stream it."""
        parts = self.text.split(" ")
        return [part if index == 0 else f" {part}" for index, part in enumerate(parts)]

    def openai_message(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.tool:
            arguments = msgspec.json.encode(self.arguments).decode()
            call = {"id": "call_demo", "type": "function", "function": {"name": self.tool, "arguments": arguments}}
            message |= {"content": None, "tool_calls": [call]}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "tool_calls" if self.tool else "stop",
        }
        return msgspec.json.encode(
            {
                "id": "chatcmpl-demo",
                "object": "chat.completion",
                "created": 0,
                "model": self.model,
                "choices": [choice],
                "usage": {"prompt_tokens": self.tokens, "completion_tokens": 8, "total_tokens": self.tokens + 8},
            }
        )

    def openai_events(self) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if self.tool:
            head = {"index": 0, "id": "call_demo", "type": "function", "function": {"name": self.tool, "arguments": ""}}
            deltas.append({"tool_calls": [head]})
            arguments = msgspec.json.encode(self.arguments).decode()
            pieces = [arguments[start : start + 12] for start in range(0, len(arguments), 12)]
            deltas.extend({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces)
        else:
            deltas.extend({"content": word} for word in self.words())
        chunks = [self._chunk(delta, None) for delta in deltas]
        return [*chunks, self._chunk({}, "tool_calls" if self.tool else "stop"), b"data: [DONE]\n\n"]

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        head = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0, "model": self.model}
        return b"data: " + msgspec.json.encode(head | {"choices": [choice]}) + b"\n\n"

    def anthropic_message(self) -> bytes:
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        if self.tool:
            content = [{"type": "tool_use", "id": "toolu_demo", "name": self.tool, "input": self.arguments}]
        return msgspec.json.encode(self._envelope() | {"content": content, "stop_reason": self._stop()})

    def anthropic_events(self) -> list[bytes]:
        block: dict[str, Any] = {"type": "text", "text": ""}
        deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": word} for word in self.words()]
        if self.tool:
            block = {"type": "tool_use", "id": "toolu_demo", "name": self.tool, "input": {}}
            arguments = msgspec.json.encode(self.arguments).decode()
            pieces = [arguments[start : start + 12] for start in range(0, len(arguments), 12)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        return [
            _named("message_start", {"message": self._envelope() | {"content": [], "stop_reason": None}}),
            _named("content_block_start", {"index": 0, "content_block": block}),
            *(_named("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas),
            _named("content_block_stop", {"index": 0}),
            _named(
                "message_delta",
                {"delta": {"stop_reason": self._stop(), "stop_sequence": None}, "usage": {"output_tokens": 8}},
            ),
            _named("message_stop", {}),
        ]

    def _stop(self) -> str:
        return "tool_use" if self.tool else "end_turn"

    def _envelope(self) -> dict[str, Any]:
        usage = {"input_tokens": self.tokens, "output_tokens": 8}
        head = {"id": "msg_demo", "type": "message", "role": "assistant", "model": self.model}
        return head | {"stop_sequence": None, "usage": usage}


def _named(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: ".encode() + msgspec.json.encode({"type": name} | data) + b"\n\n"


def _tool_name(tool: Any) -> str:  # noqa: ANN401
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) else ""


def _has_result(message: dict[str, Any]) -> bool:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)


def _text(message: Any) -> str:  # noqa: ANN401
    """All text of a message, however it is wrapped."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(
            filter(
                None,
                (
                    _text(part) if "content" in part else str(part.get("text", ""))
                    for part in content
                    if isinstance(part, dict)
                ),
            )
        )
    return ""
