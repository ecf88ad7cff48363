# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a chat completion message, reading it gives segments or an InvalidInput, and loses no string.

Seeds are requests, answers and streamed events; the input is read as each of the three.
"""

import json
from typing import Any

from shieldwall.core.errors import InvalidInput
from shieldwall.gateway import openai
from shieldwall.gateway.dialect import Dialect
from shieldwall.gateway.openai import OpenAI
from shieldwall.gateway.wire import decode, refuse_duplicates

SEEDS: list[bytes] = [
    b'{"model":"m","messages":[{"role":"user","content":"hello"}]}',
    (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":'
        b'{"url":"data:image/png;base64,iVBORw0K"}},{"type":"file","file":{"file_data":"data:text/plain;base64,aGk="}}]}]}'
    ),
    (
        b'{"model":"m","stream":true,"messages":[{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":'
        b'{"name":"f","arguments":"{\\"a\\": 1}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],"tools":['
        b'{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"enum":["x",1,null]}}}}}]}'
    ),
    (
        b'{"id":"i","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"x","audio":'
        b'{"id":"a","data":"iVBORw0K","transcript":"t"}},"logprobs":{"content":[{"token":"x","bytes":[120]}]}}]}'
    ),
    b'{"error":{"message":"no","type":"server_error","param":null,"code":"c"}}',
    b'{"choices":[{"index":1.0,"delta":{"content":"x","tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}',
    b'{"choices":[{"delta":{"brand_new":{"deep":["x"]}},"finish_reason":"stop"},"y",[1]],"usage":null}',
    b'{"\\ud800":"\\udfff","a~/b":[[["x"]]],"model":"m","messages":[{"role":"\\u0000"}]}',
    b'{"a":1,"\\u0061":2}',
    b"[" * 2_000 + b"]" * 2_000,
    b'"x"',
    b"",
]

_DIALECT = OpenAI()


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    check(_DIALECT, openai._KNOWN | frozenset().union(*openai._ENUMERATIONS.values()), data)


def check(dialect: Dialect, words: frozenset[str], data: bytes) -> None:
    """Read the input as request, answer and streamed event, and compare what was seen with what is there.

    The yardstick is Python's own decoder, told to keep every member: what it finds twice must have been refused, and
    every string and member name it finds must be seen, be named uninspected, or be one of the protocol's `words`.
    """
    try:
        ask = dialect.ask(data)
    except InvalidInput:
        pass
    else:
        _compare(data, {segment.text for segment in ask.segments} | words, len(ask.uninspected))
    try:
        segments, unread = dialect.answer(data)
    except InvalidInput:
        pass
    else:
        _compare(data, {segment.text for segment in segments} | words, len(unread))
    try:
        increment = dialect.deltas("", decode(data))
        refuse_duplicates(data, increment.members)
    except InvalidInput:
        return
    members = _compare(data, {delta.text for delta in increment.deltas} | words, len(increment.uninspected))
    assert increment.members == members, "members were miscounted, so two of one name could be"


def _compare(data: bytes, seen: frozenset[str] | set[str], unread: int) -> int:
    """Number of object members. Raises when more strings are missing than were named."""
    texts: list[str] = []
    members = 0

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal members
        members += len(pairs)
        texts.extend(name for name, _ in pairs)
        assert len({name for name, _ in pairs}) == len(pairs), "two members of one name were let by"
        return dict(pairs)

    texts += _strings(json.loads(data, object_pairs_hook=keep))
    # Half a surrogate pair is no character; the readers see `?` in its place.
    missing = {text for text in texts if text and text.encode("utf-8", "replace").decode() not in seen}
    assert len(missing) <= unread, "a string was neither read nor named"
    return members


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]
