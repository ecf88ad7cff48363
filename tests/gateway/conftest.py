# SPDX-License-Identifier: Apache-2.0
"""One endpoint and a few nodes in front of it, each started when the first test asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anthropic
import openai
import pytest

from tests.scripted import Endpoint
from tests.support import Node, config_for, running

_TIGHT = """
[gateway]
max_body_bytes = 65536
max_answer_bytes = 65536
max_event_bytes = 8192
max_held_bytes = 16384
body_timeout_s = 1.0
connect_timeout_s = 2.0
answer_timeout_s = 1.0
idle_timeout_s = 1.0
write_timeout_s = 1.0
"""


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """The model's endpoint that tests script."""
    with Endpoint() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory, endpoint: Endpoint) -> Iterator[Callable[..., Node]]:
    """Nodes by name; the same name and options give the same running node."""
    started: dict[str, Node] = {}
    with ExitStack() as stack:

        def node(name: str, extra: str = "", *options: str) -> Node:
            if name not in started:
                data = tmp_path_factory.mktemp("nodes") / name
                started[name] = stack.enter_context(running(data, config_for(endpoint.url, extra), *options))
            return started[name]

        yield node


@pytest.fixture(scope="session")
def node(nodes: Callable[..., Node]) -> Node:
    """The node most tests share: enforce, balanced, the default limits."""
    return nodes("plain")


@pytest.fixture(scope="session")
def tight(nodes: Callable[..., Node]) -> Node:
    """A node with limits small enough to reach and waits short enough to sit out."""
    return nodes("tight", _TIGHT)


@pytest.fixture
def chat(node: Node) -> Iterator[openai.OpenAI]:
    """The stock client, no retries."""
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(node: Node) -> Iterator[anthropic.Anthropic]:
    """The stock client, no retries."""
    with anthropic.Anthropic(base_url=node.url, api_key=node.key, max_retries=0) as client:
        yield client


@pytest.fixture
def fresh(tmp_path: Path, endpoint: Endpoint) -> Iterator[Node]:
    """A node of one test alone."""
    with running(tmp_path / "DATA", config_for(endpoint.url)) as node:
        yield node
