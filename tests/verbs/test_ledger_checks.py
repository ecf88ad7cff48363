# SPDX-License-Identifier: Apache-2.0
"""`shieldwall ledger verify|monitor`: what holds is verified, what does not is refuted, and the rest is not guessed."""

import functools
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.merkle import prove_inclusion
from shieldwall.ledger.proof_file import ProofFile, write_proof
from tests.ledger.made_log import LOG, NOW, THIEF, WITNESSES, entry_at, leaf, log_of, make_key, root_of, sign
from tests.support import failed, inside, told

VERIFIED, REFUTED, UNTOLD, USAGE = 0, 1, 2, 64
ENTRIES = [entry_at(NOW - 300 + number, f"e{number}") for number in range(290)]
KEY = str(LOG.key)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A log as it is served, on the disk."""
    for path, data in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def policy(folder: Path, quorum: int, *logs: SigningKey) -> str:
    """A policy file with five witnesses, of which so many are needed."""
    lines = [f"log {each.key}" for each in logs or (LOG,)]
    lines += [f"witness w{at} {key.key}" for at, key in enumerate(WITNESSES)]
    lines += [f"group some {quorum} w0 w1 w2 w3 w4", "quorum some"] if quorum else ["quorum none"]
    file = folder / f"policy-{quorum}-{len(logs)}"
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def receipt_of(entries: Sequence[bytes], index: int, key: SigningKey = LOG) -> bytes:
    """Made from the definition of the tree."""
    leaves = [leaf(entry) for entry in entries]
    hashes = prove_inclusion(
        index, len(leaves), lambda places: [root_of(leaves[at << level : at + 1 << level]) for level, at in places]
    )
    return write_proof(ProofFile(index, tuple(hashes), sign(entries, log=key, witnesses=WITNESSES[:3])))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 290 entries that three witnesses have cosigned."""
    return write(tmp_path / "log", log_of(ENTRIES))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The directory behind a plain web server on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# receipts


def verify_receipt(tmp_path: Path, receipt: bytes, entry: bytes, *trust: str) -> subprocess.CompletedProcess[bytes]:
    """Verify these bytes."""
    (tmp_path / "receipt").write_bytes(receipt)
    (tmp_path / "entry").write_bytes(entry)
    return inside("ledger", "verify", "receipt", str(tmp_path / "receipt"), str(tmp_path / "entry"), *trust)


def test_a_receipt_is_verified_by_key_or_by_policy(tmp_path: Path) -> None:
    """With a policy it is told who witnessed it, and when."""
    receipt = receipt_of(ENTRIES, 7)

    by_key = verify_receipt(tmp_path, receipt, ENTRIES[7], "--vkey", KEY)
    by_policy = verify_receipt(tmp_path, receipt, ENTRIES[7], "--policy", policy(tmp_path, 3))
    as_json = verify_receipt(tmp_path, receipt, ENTRIES[7], "--policy", policy(tmp_path, 3), "--vkey", KEY, "--json")

    assert [done.returncode for done in (by_key, by_policy, as_json)] == [VERIFIED] * 3
    assert by_key.stdout == b"verified: entry 7 of example.org/log, under its checkpoint of 290 entries\n"
    assert by_policy.stdout.decode().count("  witness w") == 3
    assert "2025-06-15T15:06:40+00:00" in by_policy.stdout.decode()
    read = json.loads(as_json.stdout)
    assert (read["verified"], read["report"]["index"], len(read["report"]["witnesses"])) == (True, 7, 3)


RECEIPT = receipt_of(ENTRIES, 7)
BAD_RECEIPTS = {
    "another entry": (RECEIPT, ENTRIES[8]),
    "another index": (RECEIPT.replace(b"index 7", b"index 8"), ENTRIES[7]),
    "no entry": (RECEIPT, b""),
    "no receipt": (b"", ENTRIES[7]),
    "cut": (RECEIPT[:-20], ENTRIES[7]),
    "a hash less": (b"\n".join(line for at, line in enumerate(RECEIPT.split(b"\n")) if at != 2), ENTRIES[7]),
    "another key of the name": (receipt_of(ENTRIES, 7, THIEF), ENTRIES[7]),
    "another size": (RECEIPT.replace(b"\n290\n", b"\n291\n"), ENTRIES[7]),
}


@pytest.mark.parametrize("name", BAD_RECEIPTS)
def test_a_receipt_that_proves_nothing_is_refuted(tmp_path: Path, name: str) -> None:
    """Whatever is wrong with it."""
    for trust in (["--vkey", KEY], ["--policy", policy(tmp_path, 3)]):
        done = verify_receipt(tmp_path, *BAD_RECEIPTS[name], *trust)
        as_json = verify_receipt(tmp_path, *BAD_RECEIPTS[name], *trust, "--json")

        assert done.returncode == as_json.returncode == REFUTED, told(done)
        assert done.stdout.startswith(b"refuted: ")
        assert json.loads(as_json.stdout)["verified"] is False


def test_a_quorum_that_is_not_met_refutes(tmp_path: Path) -> None:
    """Three of five cosigned, four are asked for."""
    done = verify_receipt(tmp_path, RECEIPT, ENTRIES[7], "--policy", policy(tmp_path, 4))

    assert done.returncode == REFUTED
    assert b"the quorum is not met" in done.stdout


def test_an_entry_dated_after_its_witnesses_is_refuted(tmp_path: Path) -> None:
    """It is in the log, but its time is a lie."""
    entries = [*ENTRIES, entry_at(NOW + 4000)]

    done = verify_receipt(tmp_path, receipt_of(entries, 290), entries[290], "--policy", policy(tmp_path, 3))

    assert done.returncode == REFUTED
    assert b"time: entry 290: it is dated 4000 s after the witnesses saw it" in done.stdout


def test_a_witness_may_state_any_time(tmp_path: Path) -> None:
    """Also one that no calendar has: it is shown as it is."""
    note = sign(ENTRIES[:1], witnesses=WITNESSES[:3], time=1 << 60)

    done = verify_receipt(tmp_path, write_proof(ProofFile(0, (), note)), ENTRIES[0], "--policy", policy(tmp_path, 3))

    assert done.returncode == VERIFIED
    assert f"witness w0 saw it {1 << 60} s after 1970" in done.stdout.decode()


def test_files_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    """That is no word against the log."""
    (tmp_path / "receipt").write_bytes(RECEIPT)
    (tmp_path / "bad").write_text("quorum nobody\n")
    receipt = str(tmp_path / "receipt")

    missing = inside("ledger", "verify", "receipt", receipt, str(tmp_path / "nowhere"), "--vkey", KEY)
    policies = [
        verify_receipt(tmp_path, RECEIPT, ENTRIES[7], "--policy", str(tmp_path / name)) for name in ("nowhere", "bad")
    ]

    failed(missing, "cannot be read")
    failed(policies[0], "cannot be read")
    failed(policies[1], "line 1 of the trust policy")


# whole logs and ranges


def test_a_log_is_verified_from_a_directory_and_from_its_url(tmp_path: Path, log: Path) -> None:
    """The same bytes, the same answer; the directory may be the one above, as `DATA` is."""
    above = write(tmp_path / "DATA" / "ledger", log_of(ENTRIES)).parent
    with served(log) as url:
        found = [
            inside("ledger", "verify", "log", where, *trust)
            for where in (str(log), str(above), url)
            for trust in (["--vkey", KEY], ["--policy", policy(tmp_path, 3)])
        ]
        some = inside("ledger", "verify", "range", url, "250", "290", "--vkey", KEY)

    assert [done.returncode for done in (*found, some)] == [VERIFIED] * 7
    assert found[0].stdout == b"verified: example.org/log, 290 entries; hashed again: 290 entries, 3 tiles\n"
    assert some.stdout.startswith(b"verified: 40 entries from 250 on")


def test_hash_tiles_alone_can_be_verified(log: Path) -> None:
    """Entries may be for auditors alone; without them nobody says they were read."""
    for path in (log / "tile" / "entries").rglob("*"):
        if path.is_file():
            path.unlink()

    alone = inside("ledger", "verify", "log", str(log), "--vkey", KEY, "--tiles-only")
    whole = inside("ledger", "verify", "log", str(log), "--vkey", KEY)

    assert alone.returncode == VERIFIED
    assert b"hashed again: 0 entries" in alone.stdout
    assert whole.returncode == REFUTED
    assert b"withheld: tile/entries/000" in whole.stdout


def _flip(path: str, at: int = -1) -> Callable[[Path], None]:
    def change(log: Path) -> None:
        data = bytearray((log / path).read_bytes())
        data[at] ^= 1
        (log / path).write_bytes(data)

    return change


def _replace(path: str, data: bytes | None) -> Callable[[Path], None]:
    def change(log: Path) -> None:
        (log / path).unlink()
        if data is not None:
            (log / path).write_bytes(data)

    return change


OTHERS = [*ENTRIES[:-1], entry_at(NOW, "other")]
DAMAGE = {
    "an entry": (_flip("tile/entries/000", 40), "entry"),
    "the last entry": (_flip("tile/entries/001.p/34"), "entry"),
    "a tile": (_flip("tile/0/000"), "tile"),
    "a tile above": (_flip("tile/1/000.p/1"), "tile"),
    "a tile withheld": (_replace("tile/0/001.p/34", None), "withheld"),
    "a bundle withheld": (_replace("tile/entries/000", None), "withheld"),
    "a bundle cut": (_replace("tile/entries/000", log_of(ENTRIES)["tile/entries/000"][:-3]), "format"),
    "a signature": (_flip("checkpoint", 80), ""),
    "an entry exchanged, signed by another": (_replace("checkpoint", sign(OTHERS, log=THIEF)), "key"),
    "another tree of the same key": (_replace("checkpoint", sign(OTHERS)), "root"),
    "more entries stated": (_replace("checkpoint", sign([*ENTRIES, ENTRIES[0]])), "withheld"),
    "another origin": (
        _replace("checkpoint", sign(ENTRIES, log=make_key("example.net/x"), origin="example.net/x")),
        "",
    ),
    "no checkpoint": (_replace("checkpoint", b"nothing"), "format"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_log_that_is_not_what_was_signed_is_refuted(log: Path, name: str) -> None:
    """Each way to change it is found, told by its kind, and counted in JSON."""
    change, kind = DAMAGE[name]
    change(log)

    done = inside("ledger", "verify", "log", str(log), "--vkey", KEY)
    as_json = inside("ledger", "verify", "log", str(log), "--vkey", KEY, "--json")

    assert done.returncode == as_json.returncode == REFUTED
    assert done.stdout.startswith(b"refuted: ")
    assert f"\n  {kind}" in done.stdout.decode()
    assert json.loads(as_json.stdout)["verified"] is False


def test_a_range_that_is_not_what_was_signed_is_refuted(log: Path) -> None:
    """Beside the damage all is well."""
    _flip("tile/entries/000", 40)(log)

    hit = inside("ledger", "verify", "range", str(log), "0", "3", "--vkey", KEY)
    beside = inside("ledger", "verify", "range", str(log), "256", "290", "--vkey", KEY)
    beyond = inside("ledger", "verify", "range", str(log), "280", "291", "--vkey", KEY)

    assert [done.returncode for done in (hit, beside, beyond)] == [REFUTED, VERIFIED, REFUTED]
    assert b"count: entry 290: the log has 290 entries" in beyond.stdout


def test_where_no_log_is_found_nothing_is_told(tmp_path: Path) -> None:
    """A wrong path or a server that is down is no word against the log."""
    for what in (["log"], ["range"]):
        rest = ["0", "1"] if what == ["range"] else []
        for where, said in (
            (str(tmp_path / "nowhere"), "there is no directory"),
            (str(tmp_path), "there is no checkpoint at"),
            ("http://127.0.0.1:1", ""),
            ("http://example.org/log", ""),
            ("ftp://127.0.0.1/log", ""),
        ):
            failed(inside("ledger", "verify", *what, where, *rest, "--vkey", KEY), said)


# usage


def test_wrong_usage_is_64(tmp_path: Path, log: Path) -> None:
    """What can only be a slip of the caller's; nothing is printed as a result."""
    two = policy(tmp_path, 0, LOG, make_key("example.net/other"))
    state = ["--state", str(tmp_path / "state")]
    wrong = [
        ["verify"],
        ["verify", "log", str(log)],
        ["verify", "log", str(log), "--vkey", "nonsense"],
        ["verify", "log", str(log), "--vkey", KEY[:-4]],
        ["verify", "log", str(log), "--vkey", str(make_key("w", KeyType.COSIGNATURE).key)],
        ["verify", "range", str(log), "3", "2", "--vkey", KEY],
        ["verify", "range", str(log), "a", "2", "--vkey", KEY],
        ["verify", "receipt", "only-one", "--vkey", KEY],
        ["monitor", "--data", str(log), "--vkey", KEY],
        ["monitor", "--data", str(log), *state],
        ["monitor", "--data", str(log), *state, "--policy", two],
        ["monitor", "--data", str(log), *state, "--vkey", KEY, "--expect", "1"],
        ["monitor", "--data", str(log), *state, "--vkey", KEY, "--expect", "x=file"],
    ]
    for arguments in wrong:
        done = inside("ledger", *arguments)

        assert (done.returncode, done.stdout) == (USAGE, b""), arguments
        assert "usage: shieldwall ledger" in told(done)
    assert not (tmp_path / "state").exists()


# monitor


class Watch:
    """A log that changes, and a monitor that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = int(time.time())
        self.entries = [entry_at(self.now - 300 + number, f"e{number}") for number in range(260)]
        self.policy = policy(folder, 3)

    def show(self, entries: Sequence[bytes], *, ago: int = 0) -> None:
        """Serve these entries, cosigned so many seconds ago."""
        write(self.folder / "log", log_of(entries, time=self.now - ago))

    def look(self, *more: str, where: str = "") -> subprocess.CompletedProcess[bytes]:
        """Look once."""
        folder = self.folder
        where = where or str(folder / "log")
        trust = ["--state", str(folder / "state"), "--policy", self.policy]
        return inside("ledger", "monitor", "--data", where, *trust, *more)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """After the first look at 258 entries."""
    made = Watch(tmp_path)
    made.show(made.entries[:258], ago=42)
    first = made.look()
    assert first.returncode == VERIFIED, first.stdout
    assert b"the first look; 258 new ones read" in first.stdout
    return made


def test_a_log_that_goes_on_is_verified(watch: Watch) -> None:
    """Only what is new is read, from a directory or from where it is served."""
    watch.show(watch.entries)
    with served(watch.folder / "log") as url:
        second = watch.look(where=url)
    third = watch.look("--json")

    assert second.returncode == third.returncode == VERIFIED
    assert b"260 entries, 258 at the last look; 2 new ones read" in second.stdout
    assert told(second) == ""
    read = json.loads(third.stdout)
    assert (read["verified"], read["report"]["old_size"], read["report"]["entries"]) == (True, 260, 0)


def test_fewer_entries_than_before_are_a_rollback(watch: Watch) -> None:
    """Both checkpoints are kept, and the monitor goes on remembering the larger one."""
    watch.show(watch.entries[:250])

    done, again = watch.look(), watch.look()

    assert done.returncode == again.returncode == REFUTED
    assert b"rollback: checkpoint: it shows 250 entries, and showed 258 before" in done.stdout
    assert len(list((watch.folder / "state" / "evidence").iterdir())) == 2
    assert "evidence kept" in told(done)


def test_another_history_is_a_split_view(watch: Watch) -> None:
    """The log is in itself without fault, and still not the one that was seen."""
    other = [*watch.entries[:200], entry_at(watch.now - 50, "another"), *watch.entries[201:]]
    watch.show(other)

    done = watch.look()

    sizes = sorted(path.read_bytes().split(b"\n")[1] for path in (watch.folder / "state" / "evidence").iterdir())
    assert done.returncode == REFUTED
    assert b"split_view: " in done.stdout
    assert sizes == [b"258", b"260"]


def test_what_others_were_shown_is_compared(watch: Watch) -> None:
    """A view that is the beginning of ours is fine, another one is not."""
    (watch.folder / "same").write_bytes(sign(watch.entries[:100], witnesses=WITNESSES[:3], time=watch.now - 90))
    (watch.folder / "other").write_bytes(sign(watch.entries[1:100], witnesses=WITNESSES[:3], time=watch.now - 90))

    same = watch.look("--view", str(watch.folder / "same"))
    other = watch.look("--view", str(watch.folder / "other"))

    assert same.returncode == VERIFIED
    assert other.returncode == REFUTED
    assert b"split_view: " in other.stdout


def test_an_entry_that_was_promised_is_missed(watch: Watch) -> None:
    """One in another's place, one that never came, and one that is where it should be."""
    folder = watch.folder
    (folder / "there").write_bytes(watch.entries[5])
    (folder / "never").write_bytes(entry_at(watch.now - 200, "never"))
    (folder / "none").write_bytes(b"no entry")

    there = watch.look("--expect", f"5={folder / 'there'}")
    displaced = watch.look("--expect", f"6={folder / 'there'}")
    never = watch.look("--expect", f"5={folder / 'there'}", "--expect", f"270={folder / 'never'}")

    assert [done.returncode for done in (there, displaced, never)] == [VERIFIED, REFUTED, REFUTED]
    assert b"omission: entry 6: another entry is in the place that was promised" in displaced.stdout
    assert b"omission: entry 270: it was promised" in never.stdout
    failed(watch.look("--expect", f"5={folder / 'none'}"), "what is expected at 5 is no entry")


def test_an_entry_dated_back_is_found(watch: Watch) -> None:
    """It came after the witnesses saw the log without it, and says it was there long before."""
    watch.show([*watch.entries[:258], entry_at(watch.now - 4000, "dated back")])

    done = watch.look()

    assert done.returncode == REFUTED
    assert b"time: entry 258: it is dated " in done.stdout


def test_without_witnesses_it_is_said_that_times_were_not_checked(watch: Watch) -> None:
    """Silence would be taken for more than it is."""
    watch.show(watch.entries)

    done = inside(
        "ledger", "monitor", "--data", str(watch.folder / "log"), "--state", f"{watch.folder}/state", "--vkey", KEY
    )

    assert done.returncode == VERIFIED
    assert "times were not checked" in told(done)


def test_a_log_that_is_not_reached_is_not_refuted(watch: Watch) -> None:
    """The next look goes on from the last one that worked."""
    down = watch.look(where="http://127.0.0.1:1")
    watch.show(watch.entries)
    after = watch.look()

    assert down.returncode == UNTOLD
    assert b"258 at the last look" in after.stdout


def test_a_checkpoint_that_is_withheld_is_told(watch: Watch) -> None:
    """There was one before."""
    (watch.folder / "log" / "checkpoint").unlink()

    done = watch.look()

    assert done.returncode == REFUTED
    assert b"withheld: checkpoint" in done.stdout


def test_what_is_remembered_and_cannot_be_read_is_told(watch: Watch) -> None:
    """It is not begun anew behind anyone's back."""
    (remembered,) = (watch.folder / "state" / "monitor").iterdir()
    remembered.write_bytes(b"{}")

    failed(watch.look(), "what the monitor remembers cannot be read")
