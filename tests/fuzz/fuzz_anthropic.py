# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in an Anthropic message, reading it gives segments or an InvalidInput, and loses no string.

Seeds are requests, answers and streamed events; the input is read as each of the three.
"""

from shieldwall.gateway import anthropic
from shieldwall.gateway.anthropic import Anthropic
from tests.fuzz.fuzz_openai import check

SEEDS: list[bytes] = [
    b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hello"}],"system":[{"type":"text","text":"s"}]}',
    (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":'
        b'[{"type":"text","text":"r"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0K"}},'
        b'{"type":"document","source":{"type":"content","content":[{"type":"text","text":"d"}]},"title":"t"}]}]}],'
        b'"tools":[{"name":"f","input_schema":{"type":"object","properties":{"a":{"enum":["x",1,null]}}}}]}'
    ),
    (
        b'{"model":"m","max_tokens":1,"stream":true,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":'
        b'"a","signature":"AAAA"},{"type":"redacted_thinking","data":"AAAA"},{"type":"tool_use","id":"t","name":"f","input":'
        b'{"a":["b",{"c":"d"}]}}]}]}'
    ),
    (
        b'{"type":"message","id":"i","role":"assistant","content":[{"type":"text","text":"x","citations":[{"type":'
        b'"char_location","cited_text":"c"}]}],"stop_reason":"end_turn","usage":{"input_tokens":1}}'
    ),
    b'{"type":"error","error":{"type":"overloaded_error","message":"no"},"request_id":"r"}',
    b'{"type":"message_start","message":{"type":"message","role":"assistant","content":[],"model":"m"}}',
    b'{"type":"content_block_start","index":0,"content_block":{"type":"web_search_tool_result","content":[{"title":"t"}]}}',
    b'{"type":"content_block_delta","index":1.0,"delta":{"type":"input_json_delta","partial_json":"{\\"a\\":"}}',
    b'{"type":"content_block_delta","delta":{"type":"citations_delta","citation":{"cited_text":"c","brand_new":"x"}}}',
    b'{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"explanation":"e"}},"usage":{}}',
    b'{"index":0,"delta":{"text":"x"}}',
    b'{"model":"m","messages":[{"role":"user","content":'
    + b'[{"type":"tool_result","content":' * 400
    + b"1"
    + b"}]" * 400
    + b"}]}",
    b'{"\\ud800x":"a","\\ud801x":"b"}',
    b"[]",
    b"",
]

_DIALECT = Anthropic()


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    check(_DIALECT, anthropic._KNOWN | frozenset().union(*anthropic._ENUMERATIONS.values()), data)
