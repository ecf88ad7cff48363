# SPDX-License-Identifier: Apache-2.0
"""One running node for the verbs that need one."""

from collections.abc import Iterator

import pytest

from tests.support import Node, config_for, running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the demo upstream; its others lead nowhere."""
    with running(tmp_path_factory.mktemp("verbs") / "DATA", config_for("http://127.0.0.1:9")) as started:
        yield started
