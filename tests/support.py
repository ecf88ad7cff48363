# SPDX-License-Identifier: Apache-2.0
"""A node as its users run it: the real command in a process of its own, a data directory, and what it left behind.

Nothing is imported from the node's side but the journal's reader: what the tests see is what any client sees.
"""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from shieldwall.cli import main
from shieldwall.core.entry import Entry, read_entry
from shieldwall.ledger import Journal
from tests.scripted import until

__all__ = [
    "ATTACK",
    "SECRET",
    "Answer",
    "Node",
    "Record",
    "command",
    "config_for",
    "failed",
    "inside",
    "records",
    "running",
    "shieldwall",
    "told",
]

ATTACK = "SHIELDWALL-TEST-ATTACK-7f3a9c"
"""The harmless string that every rule set stops on every surface."""

SECRET = "provider-key-4b1d"
"""Stands for the provider's key in every node of the tests; it must turn up nowhere but at the endpoint."""

_SMALL_SEGMENTS = "\n[ledger]\nsegment_bytes = 1048576\n"
"""A node of the tests starts faster, and its journal is copied faster, with segments of 1 MiB."""

command = (sys.executable, "-m", "shieldwall.cli")


class Answer(NamedTuple):
    """A whole answer, body as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def event(self) -> str:
        """Id of the event this answers."""
        return self.headers["x-shieldwall-event"]


class Record(NamedTuple):
    """One entry of a journal, with what it keeps for disclosure."""

    index: int
    entry: Entry
    opening: dict[str, Any]


def records(data: Path) -> list[Record]:
    """What a journal would give back if the node died now: read from a copy, so that the node may go on."""
    # The copy's own syncs need no disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as copied:
        journal_files = Path(copied) / "journal"
        shutil.copytree(data / "journal", journal_files, ignore=lambda _, names: [n for n in names if ".seg" not in n])
        journal = Journal(journal_files)
        try:
            return [Record(i, read_entry(entry), json.loads(opening)) for i, entry, opening in journal.entries()]
        finally:
            journal.close()


def config_for(url: str, extra: str = "") -> str:
    """Configuration that sends `up-*` to an endpoint in both dialects, and `nobody` to a port where nobody listens."""
    dead = f"http://127.0.0.1:{_dead_port()}"
    text = extra + ("" if "[ledger]" in extra else _SMALL_SEGMENTS)
    for dialect in ("openai", "anthropic"):
        for name, address, models in (("scripted", url, "up-*"), ("dead", dead, "nobody")):
            text += f'[upstreams.{name}-{dialect}]\nurl = "{address}"\ndialect = "{dialect}"\n'
            text += f'models = ["{models}"]\nkey_env = "SCRIPTED_API_KEY"\n'
    return text


def _dead_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "SCRIPTED_API_KEY": SECRET, "PYTHONUNBUFFERED": "1", **(extra or {})}


def shieldwall(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, in a process of its own."""
    return subprocess.run(
        [*command, *arguments], input=stdin, capture_output=True, timeout=60, env=_environment(env), check=False
    )


def inside(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end in this process: the same `main`, without a second of start."""
    streams = [io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", write_through=True) for given in (stdin, b"", b"")]
    kept = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept
    out, err = (stream.buffer.getvalue() for stream in streams[1:])  # type: ignore[attr-defined]
    return subprocess.CompletedProcess([*arguments], code, out, err)


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a command said to standard error."""
    return done.stderr.decode()


def failed(done: subprocess.CompletedProcess[bytes], *words: str) -> None:
    """A failure is told in one line and a hint, on standard error, without a trace of the program."""
    assert done.returncode == 2
    assert done.stdout == b""
    assert told(done).startswith("shieldwall: error: ")
    assert "Traceback" not in told(done)
    for word in words:
        assert word in told(done)


class Node:
    """A running node. Its output goes to files, so that it never waits for somebody to read it."""

    def __init__(self, data: Path, config: str = "", *options: str, listen: str = "127.0.0.1:0") -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self.config = data.with_name(data.name + ".toml")
        self.config.write_text(config)
        self.log = data.with_name(data.name + ".err")
        self.words = data.with_name(data.name + ".out")
        self._arguments = [*command, "up", "--listen", listen, "--data", str(data), "--config", str(self.config)]
        self._arguments += options
        self.process: subprocess.Popen[bytes]
        self.url = ""
        self.key = ""

    def start(self) -> "Node":
        """Start it and wait until it says where it is."""
        with self.words.open("ab") as out, self.log.open("ab") as err:
            said = out.tell()
            self.process = subprocess.Popen(self._arguments, stdout=out, stderr=err, env=_environment())

        def address() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log.read_text()
            return re.search(r"^shieldwall: console (http\S+)/console/", self.words.read_text()[said:], re.MULTILINE)

        self.url = until(address, "the node's address")[1]
        demo = self.data / "demo.key"
        self.key = demo.read_text().strip() if demo.exists() else ""
        return self

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it as a power cut would: nothing is flushed, nobody is told."""
        self.process.kill()
        self.process.wait(60)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def connect(self) -> http.client.HTTPConnection:
        """A connection of the plainest client there is."""
        return http.client.HTTPConnection(*self.address, timeout=60)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request with the demo key, unless the headers say otherwise, and read the whole answer.

        A body in pieces goes out in chunks, its length unstated. A header with an empty value is left out.
        """
        connection = self.connect()
        try:
            given = {"Authorization": f"Bearer {self.key}", **(headers or {})}
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def chat(self, model: str, content: str = "Hello", **more: Any) -> Answer:
        """Send one chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return self.call("POST", "/v1/chat/completions", json.dumps(body).encode())

    def records(self) -> list[Record]:
        """Its journal as it is on disk now."""
        return records(self.data)

    def about(self, event: str) -> list[Record]:
        """The records of one event."""
        return [record for record in self.records() if record.entry.event == event]


@contextmanager
def running(data: Path, config: str = "", *options: str) -> Iterator[Node]:
    """A node for the length of a block; that it stops cleanly is part of every test."""
    node = Node(data, config, *options).start()
    try:
        yield node
    except BaseException:
        node.kill()
        raise
    assert node.stop() == 0, node.log.read_text()
