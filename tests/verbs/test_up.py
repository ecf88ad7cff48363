# SPDX-License-Identifier: Apache-2.0
"""`shieldwall up`: what it prints, when it refuses to start, and how it ends."""

import asyncio
import json
import re
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from shieldwall.core.entry import EntryType
from tests.scripted import Call, Endpoint, chunk, until
from tests.support import SECRET, Node, config_for, failed, inside, records, running, shieldwall

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def up(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Start a node that is expected not to start; one that did would never come back."""
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    return inside("up", "--data", str(tmp_path / "DATA"), *listen, *arguments)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]", "gateway.example"])
def test_an_address_others_can_reach_is_refused_without_tls(tmp_path: Path, host: str) -> None:
    """Keys and prompts would cross the network readable; the hint says how to mean it."""
    failed(up(tmp_path, "--listen", f"{host}:0"), "without TLS", "--insecure")


def test_a_port_in_use_is_named(node: Node, tmp_path: Path) -> None:
    """With the address, and what to do."""
    host, port = node.address

    failed(up(tmp_path, "--listen", f"{host}:{port}"), f"cannot listen on {host}:{port}", "--listen")


def test_a_second_node_on_the_same_data_is_refused(node: Node, tmp_path: Path) -> None:
    """Two writers would tear the journal apart; the first goes on."""
    (tmp_path / "requests.jsonl").write_bytes(b"")
    refused = inside("up", "--data", str(node.data), "--listen", "127.0.0.1:0")
    replayed = inside("replay", "--data", str(node.data), str(tmp_path / "requests.jsonl"))

    failed(refused, "another node owns", "--data")
    failed(replayed, "another node owns")
    assert node.chat("demo").status == 200
    assert inside("keys", "create", "still-there", "--data", str(node.data)).returncode == 0


def test_an_upstreams_key_that_is_missing_is_named(tmp_path: Path) -> None:
    """At start, not at the first request; and the process ends."""
    path = tmp_path / "c.toml"
    path.write_text(config_for("http://127.0.0.1:9"))

    arguments = ["up", "--data", str(tmp_path / "DATA"), "--listen", "127.0.0.1:0", "--config", str(path)]

    failed(shieldwall(*arguments, env={"SCRIPTED_API_KEY": ""}), "SCRIPTED_API_KEY is not set")


@pytest.mark.parametrize("option", ["nonsense", "=http://x", "a b=http://x", "a=ftp://x"])
def test_an_upstream_option_that_cannot_be_read_is_refused(tmp_path: Path, option: str) -> None:
    """Nothing is guessed about where requests go."""
    failed(up(tmp_path, "--upstream", option))


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file stands where the directory should."""
    (tmp_path / "DATA").write_text("")

    failed(up(tmp_path), "DATA cannot be used", "--data")


def test_a_data_directory_with_a_long_name_works_or_is_named(tmp_path: Path) -> None:
    """A socket's path has a bound that directories do not have."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)

    with running(deep / "DATA", config_for("http://127.0.0.1:9")) as node:
        done = inside("keys", "create", "far-away", "--data", str(node.data))

    assert done.returncode == 0


def test_the_demo_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The second `make up` finds the directory free and prints the same working line; no second key is made."""
    data = tmp_path / "DATA"
    keys = []
    for _ in range(2):
        with running(data, config_for("http://127.0.0.1:9")) as node:
            keys.append(node.key)
            greeting = node.words.read_text()
            answered = node.chat("demo").status
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(node.address, timeout=10)

    modes = {name: stat.S_IMODE((data / name).stat().st_mode) for name in ("demo.key", "keys", "keys/api-keys.json")}
    assert keys[0] == keys[1]
    assert answered == 200
    assert modes == {"demo.key": 0o600, "keys": 0o700, "keys/api-keys.json": 0o600}
    assert keys[0] not in greeting
    made = [record for record in records(data) if record.entry.type is EntryType.KEY_CREATE]
    assert [record.opening["fields"]["name"] for record in made] == ["demo"]


def test_the_printed_line_works(node: Node) -> None:
    """It is what a newcomer pastes first."""
    (line,) = until(lambda: re.findall(r"^curl .*$", node.words.read_text(), re.MULTILINE), "the line")

    done = subprocess.run(["bash", "-c", f"{line} -s"], capture_output=True, timeout=60, check=True)

    assert "You said: Hello" in json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_what_is_printed_holds_the_real_port_and_no_key(node: Node) -> None:
    """Port 0 asks for any; the provider's key is nowhere, nor is a virtual one."""
    words, log = node.words.read_text(), node.log.read_text()

    assert f"{node.url}/console/" in words
    assert node.address[1] != 0
    for secret in (SECRET, node.key):
        assert secret not in words + log


def test_sigterm_lets_running_exchanges_end(tmp_path: Path) -> None:
    """The stream that was running ends whole, the record is closed, the exit code is 0, nothing is left behind."""
    data = tmp_path / "DATA"
    release = threading.Event()

    async def run(call: Call) -> None:
        await call.open()
        await call.chunk(chunk({"content": "before "}))
        await asyncio.to_thread(release.wait)
        await call.chunk(chunk({"content": "after"}))
        await call.chunk(b"data: [DONE]\n\n")
        await call.chunk(b"")

    with Endpoint() as endpoint:
        node = Node(data, config_for(endpoint.url)).start()
        connection = node.connect()
        body = {"model": endpoint.model(run), "stream": True, "messages": HELLO}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {node.key}"})
        response = connection.getresponse()
        first = response.read1()
        node.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in node.log.read_text(), "the node to say that it stops")
        release.set()
        rest = response.read()
        connection.close()
        code = node.process.wait(60)

    assert b"before " in first
    assert b"after" in rest
    assert rest.endswith(b"[DONE]\n\n")
    assert code == 0
    assert records(data)[-1].entry.type is EntryType.NODE_STOP
    assert not (data / "control.sock").exists()
    assert "Traceback" not in node.log.read_text()
