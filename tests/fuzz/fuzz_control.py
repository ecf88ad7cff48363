# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as a command on the control socket: one JSON answer, a key or an error, and never a node that falls.

A key is made only for a command that asks for one by a usable name.
"""

import re
from typing import Any, cast

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.node import Node
from shieldwall.verbs.control import _do

SEEDS: list[bytes] = [
    b"",
    b"\n",
    b'{"do": "keys.create", "name": "ann", "role": "operator"}\n',
    b'{"do": "keys.create", "name": "ann"}',
    b'{"name": "ann", "do": "keys.create", "role": "emperor"}\n',
    b'{"do": "keys.create", "name": "a b"}\n',
    b'{"do": "keys.create"}\n',
    b'{"name": "ann"}\n',
    b'{"do": "keys.create", "name": "ann", "more": 1}\n',
    b'{"do": "node.explode"}\n',
    b'{"do": 1, "name": []}\n',
    b'{"do": "keys.create", "name": "\\ud800"}\n',
    b'{"do": "keys.create", "name": "' + b"\xff" + b'"}\n',
    b'{"do": "keys.create", "name": ' + b"[" * 2_000,
    b'{"do": ' + b"[" * 2_000,
    b'[{"do": "keys.create", "name": "ann"}]\n',
    b"null\n",
]


class _Node:
    """As much of a node as commands reach."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    async def create_key(self, name: str, role: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name) is None or role not in {"user", "operator"}:
            raise ConfigError("not usable", hint="choose another")
        self.made.append((name, role))
        return "sw-made"


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    node = _Node()
    step = _do(cast("Node", node), data)
    try:
        # The double waits for nothing, so one step of the coroutine is all of it.
        step.send(None)
    except StopIteration as ended:
        answer: dict[str, Any] = ended.value
    else:
        raise AssertionError("waited for something")
    line = msgspec.json.encode(answer)
    assert b"\n" not in line
    assert answer.keys() in ({"key"}, {"error", "hint"})
    assert ("key" in answer) == bool(node.made)
    if node.made:
        command = msgspec.json.decode(data)
        assert command["do"] == "keys.create"
        assert node.made == [(command["name"], command.get("role", "user"))]
