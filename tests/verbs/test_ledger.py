# SPDX-License-Identifier: Apache-2.0
"""`shieldwall ledger` that keeps a log: begun once, appended to, shown to outsiders, and refused where it must be."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from shieldwall.core.entry import EntryType, read_entry
from shieldwall.ledger import KeyType, parse_vkey
from shieldwall.node import DataDirectory
from tests.support import config_for, failed, inside, records, running, shieldwall, told

CLEAN, REFUTED, USAGE = 0, 1, 64
ORIGIN = "example.org/log"


def begin(tmp_path: Path, *lines: str) -> tuple[Path, str]:
    """A log with these lines after its first entry, and its verifier key."""
    data = tmp_path / "DATA"
    data.mkdir()
    (data / "config.toml").write_text("[ledger]\nsegment_bytes = 65536\n")
    begun = inside("ledger", "init", "--data", str(data), "--origin", ORIGIN)
    assert begun.returncode == CLEAN, told(begun)
    if lines:
        appended = append(data, *lines)
        assert appended.returncode == CLEAN, told(appended)
    return data, begun.stdout.decode().strip()


def append(data: Path, *lines: str) -> subprocess.CompletedProcess[bytes]:
    """Append lines from standard input."""
    return inside("ledger", "append", "--data", str(data), "-", stdin="".join(f"{line}\n" for line in lines).encode())


def test_an_outsider_verifies_with_the_key_alone(tmp_path: Path) -> None:
    """From the first command to the last, each in a process of its own; the outsider has copies and the key."""
    data, outside = tmp_path / "DATA", tmp_path / "outside"

    begun = shieldwall("ledger", "init", "--data", str(data), "--origin", ORIGIN)
    shown = shieldwall("ledger", "vkey", "--data", str(data))
    appended = shieldwall("ledger", "append", "--data", str(data), "-", stdin=b"one\ntwo\n\nlast without an end")
    exported = shieldwall("ledger", "export", "--data", str(data), "--out", str(outside), "2", "4")
    key = shown.stdout.decode().strip()
    shutil.copytree(data / "ledger", outside / "log")
    shutil.rmtree(data)
    receipts = [
        shieldwall("ledger", "verify", "receipt", f"{outside}/{i}.tlog-proof", f"{outside}/{i}.entry", "--vkey", key)
        for i in (2, 4)
    ]
    whole = shieldwall("ledger", "verify", "log", str(outside / "log"), "--vkey", key)
    some = shieldwall("ledger", "verify", "range", str(outside / "log"), "1", "5", "--vkey", key)

    assert begun.stdout == shown.stdout
    assert appended.stdout == b"1\n2\n3\n4\n"
    assert exported.stdout.decode().split() == [f"{outside}/2.tlog-proof", f"{outside}/4.tlog-proof"]
    assert [done.returncode for done in (begun, shown, appended, exported, *receipts, whole, some)] == [CLEAN] * 8
    assert receipts[0].stdout.startswith(b"verified: entry 2 of example.org/log, under its checkpoint of 6 entries")
    assert b"verified: example.org/log, 6 entries" in whole.stdout
    assert b"verified: 4 entries from 1 on" in some.stdout


# init and vkey


def test_a_log_is_begun_with_its_own_beginning_on_record(tmp_path: Path) -> None:
    """The first checkpoint is signed at once, over an entry that says so; what was recorded before stands before it."""
    data = tmp_path / "DATA"
    assert inside("keys", "create", "early", "--data", str(data)).returncode == CLEAN

    begun = inside("ledger", "init", "--data", str(data), "--origin", ORIGIN)

    recorded = records(data)
    key = begun.stdout.decode().strip()
    assert [record.entry.type for record in recorded] == [EntryType.KEY_CREATE, EntryType.LEDGER_INIT]
    assert recorded[1].opening["fields"] == {"origin": ORIGIN, "vkey": key}
    assert (data / "ledger" / "checkpoint").read_text().startswith(f"{ORIGIN}\n2\n")
    assert inside("ledger", "verify", "log", str(data), "--vkey", key).returncode == CLEAN


def test_without_an_origin_each_log_has_another_name(tmp_path: Path) -> None:
    """A name is never used twice, because witnesses remember it."""
    names = set()
    for folder in ("a", "b"):
        done = inside("ledger", "init", "--data", str(tmp_path / folder))
        names.add(parse_vkey(done.stdout.decode().strip()).name)

    assert len(names) == 2
    assert all(name.startswith("local/") for name in names)


def test_private_keys_stay_private(tmp_path: Path) -> None:
    """Only their owner may read them, and nothing of them is among what is served or printed."""
    data, key = begin(tmp_path, "line")

    files = list((data / "keys" / "ledger").iterdir())
    secrets = [file.read_text().strip().rpartition("+")[2].encode() for file in files]
    shown = b"".join(path.read_bytes() for path in (data / "ledger").rglob("*") if path.is_file())
    assert len(files) == 2
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert (data / "keys" / "ledger").stat().st_mode & 0o777 == 0o700
    assert not any(secret in shown + key.encode() for secret in secrets)


def test_vkey_gives_one_line_or_all(tmp_path: Path) -> None:
    """A script gets the key every verifier knows; the other one is asked for. A node at work is no hindrance."""
    data, key = begin(tmp_path)

    with DataDirectory(data):
        one = inside("ledger", "vkey", "--data", str(data)).stdout.decode().splitlines()
        both = inside("ledger", "vkey", "--data", str(data), "--all").stdout.decode().splitlines()

    assert one == [key] == both[:1]
    assert [parse_vkey(each).type for each in both] == [KeyType.NOTE, KeyType.SUBTREE]


def test_a_log_is_begun_once(tmp_path: Path) -> None:
    """A second beginning would be a second history."""
    data, key = begin(tmp_path, "line")

    again = inside("ledger", "init", "--data", str(data), "--origin", "example.org/other")

    failed(again, "a log is there already")
    assert inside("ledger", "verify", "log", str(data), "--vkey", key).returncode == CLEAN


def test_keys_without_a_register_begin_nothing(tmp_path: Path) -> None:
    """Nobody knows what they have signed; with register and tiles gone they would sign a second history."""
    data, _ = begin(tmp_path, "line")
    (data / "register").unlink()
    shutil.rmtree(data / "ledger")

    failed(inside("ledger", "init", "--data", str(data), "--origin", ORIGIN), "keys of a log", "restore DATA/register")


def test_tiles_without_a_register_begin_nothing(tmp_path: Path) -> None:
    """They are a log's; the keys made meanwhile go again, so that the same is said the next time."""
    data, _ = begin(tmp_path, "line")
    (data / "register").unlink()
    shutil.rmtree(data / "keys" / "ledger")

    for _ in range(2):
        failed(inside("ledger", "init", "--data", str(data), "--origin", ORIGIN), "there is no register to go with it")
    assert not (data / "keys" / "ledger").exists()


@pytest.mark.parametrize("origin", ["https://example.org/log", "a b", "a+b", "log/"])
def test_an_origin_that_is_none_is_refused(tmp_path: Path, origin: str) -> None:
    """The message says why, and no keys are made."""
    failed(inside("ledger", "init", "--data", str(tmp_path), "--origin", origin), "the origin of the log")
    assert not (tmp_path / "keys" / "ledger").exists()


# append


def test_a_line_is_behind_its_commitment(tmp_path: Path) -> None:
    """Its text is kept for disclosure and stands nowhere in what is served."""
    data, _ = begin(tmp_path, "a line of ours", "ünïcode")

    recorded = records(data)[1:]
    served = b"".join(path.read_bytes() for path in (data / "ledger").rglob("*") if path.is_file())
    assert [record.entry.type for record in recorded] == [EntryType.LEDGER_APPEND] * 2
    assert [record.opening["fields"]["line"] for record in recorded] == ["a line of ours", "ünïcode"]
    assert b"a line of ours" not in served


def test_many_lines_come_in_order(tmp_path: Path) -> None:
    """More than are on their way at a time, and more than a journal with little room takes at once."""
    data, key = begin(tmp_path)
    (data / "config.toml").write_text("[ledger]\nsegment_bytes = 65536\nmax_pending = 3\n")

    done = append(data, *map(str, range(1500)))

    assert done.returncode == CLEAN, told(done)
    assert done.stdout.decode().split() == [str(index) for index in range(1, 1501)]
    assert [record.opening["fields"]["line"] for record in records(data)[1:]] == [str(number) for number in range(1500)]
    assert inside("ledger", "verify", "log", str(data), "--vkey", key).returncode == CLEAN


def test_lines_come_from_a_file_too(tmp_path: Path) -> None:
    """And nothing at all is no error."""
    data, _ = begin(tmp_path)
    file = tmp_path / "lines"
    file.write_text("one\ntwo\n")

    done = inside("ledger", "append", "--data", str(data), str(file))
    none = append(data)

    assert (done.returncode, done.stdout) == (CLEAN, b"1\n2\n")
    assert (none.returncode, none.stdout) == (CLEAN, b"")
    failed(inside("ledger", "append", "--data", str(data), str(tmp_path / "nowhere")), "cannot be read")


@pytest.mark.parametrize("line", [b"\xff\xfe", b"x" * ((1 << 20) + 1)], ids=["not UTF-8", "too long"])
def test_lines_before_one_that_is_none_are_published(tmp_path: Path, line: bytes) -> None:
    """The error says which line, so that the rest can follow."""
    data, key = begin(tmp_path)

    done = inside("ledger", "append", "--data", str(data), "-", stdin=b"one\ntwo\n" + line + b"\nfour\n")

    assert done.returncode == 2
    assert done.stdout == b"1\n2\n"
    assert "shieldwall: error: line 3: it is" in told(done)
    assert "shieldwall: hint: the lines before it are appended" in told(done)
    assert b"3 entries" in inside("ledger", "verify", "log", str(data), "--vkey", key).stdout


# status and export


def test_status_says_how_far_it_came(tmp_path: Path) -> None:
    """For people and for programs."""
    data, _ = begin(tmp_path, "one", "two")

    status = inside("ledger", "status", "--data", str(data), "--json")
    shown = inside("ledger", "status", "--data", str(data))

    assert json.loads(status.stdout) == {"origin": ORIGIN, "sequenced": 3, "published": 3, "witnessed": 0}
    assert shown.returncode == CLEAN
    assert b"published             3" in shown.stdout


def test_an_export_is_on_record(tmp_path: Path) -> None:
    """What left the house is seen in the log itself."""
    data, _ = begin(tmp_path, "one", "two")

    done = inside("ledger", "export", "--data", str(data), "--out", str(tmp_path / "out"), "2", "1")

    assert done.returncode == CLEAN
    assert records(data)[-1].entry.type is EntryType.LEDGER_EXPORT
    assert records(data)[-1].opening["fields"] == {"entries": "2 1"}
    assert read_entry((tmp_path / "out" / "1.entry").read_bytes()) == records(data)[1].entry


def test_an_entry_that_is_not_there_is_not_exported(tmp_path: Path) -> None:
    """Nor is anything recorded about it."""
    data, _ = begin(tmp_path)

    failed(inside("ledger", "export", "--data", str(data), "--out", str(tmp_path / "out"), "1"), "there is no entry 1")
    assert len(records(data)) == 1
    assert inside("ledger", "export", "--data", str(data), "--out", "x", "minus").returncode == USAGE


# refusals


@pytest.mark.parametrize(
    "verb", [["append", "-"], ["status"], ["export", "--out", "x", "0"], ["vkey"]], ids=lambda verb: verb[0]
)
def test_without_a_log_it_is_said_how_to_begin_one(tmp_path: Path, verb: list[str]) -> None:
    """And a directory that was misspelt is not made."""
    failed(inside("ledger", *verb, "--data", str(tmp_path / "nowhere")), "there is no data directory")
    assert not (tmp_path / "nowhere").exists()
    failed(inside("ledger", *verb, "--data", str(tmp_path)), "the log has no register", "shieldwall ledger init")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb", [["init"], ["append", "-"], ["status"], ["export", "--out", "x", "0"]], ids=lambda verb: verb[0]
)
def test_a_directory_in_use_is_refused(tmp_path: Path, verb: list[str]) -> None:
    """One process signs for a log."""
    data, _ = begin(tmp_path)

    with DataDirectory(data):
        done = inside("ledger", *verb, "--data", str(data))

    failed(done, "another node owns")


def test_beside_a_running_node_only_reading_works(tmp_path: Path) -> None:
    """The node's own entries are published by the next `append`, until it publishes by itself."""
    data, key = begin(tmp_path)

    with running(data, config_for("http://127.0.0.1:9")):
        refused = append(data, "line")
        shown = inside("ledger", "vkey", "--data", str(data))
        checked = inside("ledger", "verify", "log", str(data), "--vkey", key)
    done = append(data)

    failed(refused, "another node owns")
    assert shown.stdout.decode().strip() == key
    assert checked.returncode == CLEAN
    assert done.returncode == CLEAN
    status = json.loads(inside("ledger", "status", "--data", str(data), "--json").stdout)
    assert status["published"] == status["sequenced"] == len(records(data)) > 1


def test_a_restored_backup_signs_nothing(tmp_path: Path) -> None:
    """Each part that is older than the others is named, and the served checkpoint stays."""
    data, _ = begin(tmp_path, *map(str, range(3)))
    backup = tmp_path / "backup"
    shutil.copytree(data, backup)
    assert append(data, *map(str, range(300))).returncode == CLEAN
    words = {
        "register": "the register is behind",
        "ledger": "the register is ahead of the tiles",
        "journal": "the journal is shorter than the log",
    }

    for part, said in words.items():
        mixed = tmp_path / f"mixed-{part}"
        shutil.copytree(data, mixed)
        target = mixed / part
        if target.is_dir():
            shutil.rmtree(target)
            shutil.copytree(backup / part, target)
        else:
            shutil.copy(backup / part, target)
        served = (mixed / "ledger" / "checkpoint").read_bytes()

        for verb in (["append", "-"], ["status"]):
            failed(inside("ledger", *verb, "--data", str(mixed)), said)
        assert (mixed / "ledger" / "checkpoint").read_bytes() == served


def test_keys_of_another_log_sign_nothing(tmp_path: Path) -> None:
    """A key that is missing, or is another one under its name, is told."""
    data, _ = begin(tmp_path, "line")
    folder = data / "keys" / "ledger"
    one, other = sorted(folder.iterdir())

    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    failed(append(data, "more"), "holds another key than its name says")
    one.write_bytes(kept)
    one.chmod(0o644)
    failed(append(data, "more"), "can be read by others")
    one.unlink()
    failed(append(data, "more"), "cannot be read")
