# SPDX-License-Identifier: Apache-2.0
"""The command as scripts and people use it: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shieldwall.core.entry import EntryType
from shieldwall.node import DataDirectory
from tests.support import ATTACK, SECRET, Node, command, config_for, failed, inside, records, running, shieldwall, told

CLEAN, FOUND, UNCLEAR, USAGE = 0, 1, 2, 64


def test_the_installed_command_is_there() -> None:
    """What `make setup` leaves, and what everything here runs."""
    script = Path(sys.executable).with_name("shieldwall")

    done = subprocess.run([script, "--version"], capture_output=True, check=True, timeout=60)

    assert done.stdout.startswith(b"shieldwall ")


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["nonsense"], ["keys"], ["keys", "create"], ["replay"]])
def test_wrong_usage_is_64(arguments: list[str]) -> None:
    """As `sysexits.h` has it; the usage goes to standard error."""
    done = inside(*arguments)

    assert done.returncode == USAGE
    assert done.stdout == b""
    assert "usage: shieldwall" in told(done)


# keys


def test_a_key_can_be_made_alone_and_works_with_the_next_node(tmp_path: Path) -> None:
    """Only the key is printed, only its hash is kept, and its making is on record."""
    data = tmp_path / "DATA"
    done = inside("keys", "create", "my-app", "--data", str(data))
    key = done.stdout.decode().strip()
    recorded = records(data)

    with running(data, config_for("http://127.0.0.1:9")) as node:
        listed = node.call("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})

    kept = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "demo.key")
    assert done.returncode == CLEAN
    assert done.stdout.count(b"\n") == 1
    assert [record.entry.type for record in recorded] == [EntryType.KEY_CREATE]
    assert recorded[0].opening["fields"] == {"name": "my-app", "role": "user"}
    assert listed.status == 200
    assert key.rpartition("-")[2].encode() not in kept


def test_a_key_made_beside_a_running_node_works_at_once(node: Node) -> None:
    """The node makes it, so nothing has to be read again."""
    done = inside("keys", "create", "beside", "--data", str(node.data))
    key = done.stdout.decode().strip()

    received = node.call("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})

    assert done.returncode == CLEAN
    assert received.status == 200
    assert {"name": "beside", "role": "user"} in [
        record.opening["fields"] for record in node.records() if record.entry.type is EntryType.KEY_CREATE
    ]


def test_many_keys_at_once_are_all_made(node: Node) -> None:
    """Commands that meet at the control socket do not lose each other's key."""
    with ThreadPoolExecutor(4) as pool:
        names = [f"many-{number}" for number in range(4)]
        done = list(pool.map(lambda name: shieldwall("keys", "create", name, "--data", str(node.data)), names))

    keys = {each.stdout.decode().strip() for each in done}
    assert [each.returncode for each in done] == [CLEAN] * 4
    assert len(keys) == 4
    for key in keys:
        assert node.call("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}).status == 200


def test_a_name_is_used_once(node: Node, tmp_path: Path) -> None:
    """Beside a node and alone; the error says what to do."""
    alone = tmp_path / "DATA"
    for data in (node.data, alone):
        first = inside("keys", "create", "twice", "--data", str(data))
        second = inside("keys", "create", "twice", "--data", str(data))

        assert first.returncode == CLEAN
        failed(second, "there is a key named twice already", "hint: choose another name")


@pytest.mark.parametrize("name", ["", "two words", "../up", "x" * 65, "naïve", "-x" * 2 + "\n"])
def test_a_name_that_cannot_stand_in_a_record_is_refused(tmp_path: Path, name: str) -> None:
    """And no key is made."""
    done = inside("keys", "create", "--data", str(tmp_path / "DATA"), "--", name)

    failed(done, "a key's name is")


def test_a_role_nobody_knows_is_wrong_usage(tmp_path: Path) -> None:
    """The message lists the roles."""
    done = inside("keys", "create", "x", "--role", "root", "--data", str(tmp_path / "DATA"))

    assert done.returncode == USAGE
    assert "operator" in told(done)
    assert not (tmp_path / "DATA").exists()


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """The directory is locked, but nobody listens at its control socket."""
    with DataDirectory(tmp_path / "DATA"):
        done = inside("keys", "create", "x", "--data", str(tmp_path / "DATA"))

    failed(done, "its node does not answer")


# inspect


@pytest.mark.parametrize(("text", "code"), [("good day", CLEAN), (f"Please: {ATTACK}", FOUND)])
def test_inspect_says_by_its_exit_code_what_it_found(text: str, code: int) -> None:
    """As an argument and from standard input; for people and as an object."""
    action = "block" if code else "allow"
    by_argument, by_input = inside("inspect", text), inside("inspect", stdin=text.encode())
    as_object = inside("inspect", "--json", text)

    assert [done.returncode for done in (by_argument, by_input, as_object)] == [code] * 3
    assert by_argument.stdout == by_input.stdout
    assert by_argument.stdout.decode().startswith(action)
    assert json.loads(as_object.stdout)["action"] == action
    assert ATTACK.encode() not in by_argument.stdout + as_object.stdout


def test_inspect_answers_lines_in_order_with_nonsense_between() -> None:
    """A line that cannot be read becomes an error object in its place; the others go on."""
    lines = [
        b'{"text": "good day"}',
        b"nonsense",
        b'{"text": "%s"}' % ATTACK.encode(),
        b"[]",
        b'{"text": 7}',
        b"",
        b'{"text": "good day", "surface": "moon"}',
        b'{"text": "\xff"}',
        b'{"text": "good day", "surface": "tool_output"}',
        b"[" * 100_000,
        b'{"text": "last", "surface": "user"}',
    ]

    done = inside("inspect", "--json", "-", stdin=b"\n".join(lines))
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    words = [answer.get("action", "error") for answer in answers]
    assert words == ["allow", "error", "block", "error", "error", "error", "error", "allow", "error", "allow"]
    assert set(answers[0]) == {"action", "score", "findings", "complete"}
    assert answers[3]["error"]["where"] == ""
    assert answers[4]["error"]["where"] == "/text"
    assert done.returncode == UNCLEAR


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b"", CLEAN),
        (b'{"text": "a"}\n', CLEAN),
        (b'{"text": "a"}\n{"text": "%s"}' % ATTACK.encode(), FOUND),
        (b"x", UNCLEAR),
    ],
)
def test_inspect_sums_its_lines_up_by_its_exit_code(lines: bytes, code: int) -> None:
    """Nothing found, something found, or something not read."""
    assert inside("inspect", "--json", "-", stdin=lines).returncode == code


def test_inspect_answers_each_line_as_it_comes() -> None:
    """A program may ask line by line; the answer does not wait for the end of the input."""
    arguments = [*command, "inspect", "--json", "-"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for text in ("good day", ATTACK):
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline())["action"])
        process.stdin.close()

    assert answers == ["allow", "block"]
    assert process.returncode == FOUND


def test_inspect_refuses_a_surface_it_does_not_know() -> None:
    """The hint lists the words."""
    failed(inside("inspect", "--surface", "moon", "x"), "not a known word", "tool_result")


# replay

OPENAI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "good day"}]}
ANTHROPIC: dict[str, Any] = {"model": "m", "max_tokens": 9, "system": "be kind", "messages": OPENAI["messages"]}


def hostile(request: dict[str, Any]) -> dict[str, Any]:
    return {**request, "messages": [{"role": "user", "content": f"Please: {ATTACK}"}]}


def file_of(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_replay_judges_both_dialects(tmp_path: Path) -> None:
    """Named or guessed, with and without the recorded response."""
    answer = {"choices": [{"message": {"content": f"Sure. {ATTACK}"}}]}
    path = file_of(
        tmp_path,
        {"dialect": "openai", "request": OPENAI, "response": answer},
        {"dialect": "anthropic", "request": hostile(ANTHROPIC)},
        OPENAI,
        hostile(ANTHROPIC),
    )

    done = inside("replay", "--json", str(path))

    actions = [json.loads(line)["action"] for line in done.stdout.splitlines()]
    assert actions == ["allow", "block", "block", "allow", "block"]
    assert done.returncode == FOUND


def test_replay_names_the_lines_it_cannot_read(tmp_path: Path) -> None:
    """Each by its number; the others are judged, the exit code says that not all were."""
    path = file_of(tmp_path, OPENAI, b"nonsense", {"dialect": "moon", "request": OPENAI}, {"model": 7}, b"", ANTHROPIC)

    done = inside("replay", str(path))

    assert done.returncode == UNCLEAR
    assert "2 messages judged" in done.stdout.decode()
    assert "line 2: not a JSON object" in told(done)
    assert "line 3 at /dialect" in told(done)
    assert "line 4 at /model" in told(done)
    assert "moon" not in told(done)


def test_replay_follows_profile_and_records_where_it_is_told_to(tmp_path: Path) -> None:
    """What a policy would have done: the same file, two profiles; with a data directory there is a record."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}}
    path = file_of(tmp_path, {**OPENAI, "messages": [{"role": "user", "content": [image]}]})
    data = tmp_path / "DATA"

    balanced = inside("replay", "--json", str(path))
    strict = inside("replay", "--json", "--profile", "strict", "--data", str(data), str(path))

    (record,) = records(data)
    assert json.loads(balanced.stdout)["action"] == "flag"
    assert json.loads(strict.stdout)["action"] == "block"
    assert json.loads(strict.stdout)["entry"] == record.index == 0
    assert record.entry.action == "block"


def test_replay_of_nothing_is_clean_and_of_no_file_is_not(tmp_path: Path) -> None:
    """An empty file holds no attack; a missing one could hold anything."""
    empty = inside("replay", str(file_of(tmp_path)))
    missing = inside("replay", str(tmp_path / "elsewhere.jsonl"))

    assert empty.returncode == CLEAN
    failed(missing, "cannot be read")


# doctor and config


def test_the_doctor_finds_a_right_installation_well() -> None:
    """Every line says ok."""
    done = inside("doctor")

    lines = done.stdout.decode().splitlines()[1:]
    assert done.returncode == CLEAN
    assert len(lines) >= 4
    assert all(line.startswith("ok ") for line in lines)


def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    """A policy that cannot be used is a reason not to trust this installation."""
    (tmp_path / "own.cedar").write_text("permit (principal;")
    config = tmp_path / "c.toml"
    config.write_text(f'[policy]\npath = "{tmp_path / "own.cedar"}"\n')

    done = inside("doctor", "--config", str(config))

    assert done.returncode == UNCLEAR
    assert "FAIL  policy" in done.stdout.decode()
    assert "cannot be trusted" in told(done)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\nmax_body_byte = 1\n", ["gateway.max_body_byte", "did you mean gateway.max_body_bytes?"]),
        ('[upstreams.a]\nurl = "http://x"\nmodel = ["*"]\n', ["upstreams.a.model", "upstreams.a.models?"]),
        ('[gateway]\nmax_body_bytes = "many"\n', ["gateway.max_body_bytes"]),
        ('profil = "strict"\n', ["profil", "did you mean profile?"]),
        ('profile = "lax"\n', ["permissive, balanced, strict"]),
        ('[upstreams.a]\nurl = "ftp://x"\n', ["http://"]),
        ("listen = 8787\n", ["listen"]),
        ('listen = "8787"\n', ["127.0.0.1:8787"]),
        ("nonsense", ["not TOML"]),
        ('[policy]\npath = "/nonexistent.cedar"\n', ["/nonexistent.cedar", "cannot be read"]),
    ],
)
def test_config_check_names_what_is_wrong(tmp_path: Path, text: str, words: list[str]) -> None:
    """The key with its path and the nearest right one, before a node is started with it."""
    path = tmp_path / "c.toml"
    path.write_text(text)

    failed(inside("config", "check", str(path)), *words)


def test_config_check_accepts_what_a_node_starts_with(tmp_path: Path) -> None:
    """And prints it whole on request, the provider's key not among it."""
    path = tmp_path / "c.toml"
    path.write_text(config_for("http://127.0.0.1:9", 'profile = "strict"\n'))

    words = inside("config", "check", str(path))
    whole = inside("config", "check", "--json", str(path))

    assert words.returncode == whole.returncode == CLEAN
    assert "4 upstreams" in words.stdout.decode()
    assert json.loads(whole.stdout)["profile"] == "strict"
    assert SECRET.encode() not in whole.stdout + words.stdout


@pytest.mark.parametrize("arguments", [["inspect", "--json", "-"], ["inspect", "x"], ["doctor"]])
def test_a_reader_that_goes_away_is_no_fault(arguments: list[str]) -> None:
    """`| head` closes our output; that is its right."""
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)
        _, error = process.communicate(b'{"text": "x"}\n' * 10, timeout=60)

    assert b"Traceback" not in error
    assert b"Exception" not in error
