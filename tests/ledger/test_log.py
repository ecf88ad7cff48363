# SPDX-License-Identifier: Apache-2.0
"""The log holds exactly the journal's entries, proves them, refuses whatever does not fit, and waits for nobody."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput, JournalCorrupt, JournalError
from shieldwall.ledger.integrate import gather
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.log import Log
from shieldwall.ledger.merkle import check_consistency, check_inclusion, leaf_hash
from shieldwall.ledger.proof_file import parse_proof, verify_proof
from shieldwall.ledger.register import LogRefused, close_shard, create_register, parse_register
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.trust import parse_policy
from tests.ledger.log_support import (
    KEYS,
    ORIGIN,
    TIME,
    WITNESS,
    House,
    copy,
    cosigned,
    entry,
    house,
    keys,
    naive_root,
    naive_tiles,
    shown,
    text_of,
)

POLICY = parse_policy(f"witness w {WITNESS.key}\nquorum w\n".encode())
WAIT_S = 30.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path / "data") as opened:
        yield opened.begin()


def served(found: House) -> dict[str, bytes]:
    """Everything in DATA/ledger, by path."""
    root = found.path / "ledger"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_whole(found: House) -> None:
    """Everything that is served is what the naive way computes from the journal."""
    entries = found.entries()
    checkpoint = shown(found)
    assert (checkpoint.size, checkpoint.root) == (len(entries), naive_root(entries))
    held = served(found)
    assert {path: held.get(path) for path in naive_tiles(entries)} == naive_tiles(entries)


# What it holds


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 700])
def test_a_log_is_what_the_naive_way_computes(home: House, size: int) -> None:
    """Tiles, bundles, root, and both signatures."""
    home.append(size)

    assert home.log().publish() == size
    check_whole(home)


def test_a_log_over_256_full_tiles_has_a_third_level(home: House) -> None:
    promises = [home.journal.append(b"%d" % number) for number in range(4_000)]
    for number in range(4_000, 65_800):
        promises.append(home.journal.append(b"%d" % number))
        if number % 2_000 == 0:
            promises[-1].result(WAIT_S)
    promises[-1].result(WAIT_S)

    assert home.log().publish() == 65_800
    check_whole(home)
    assert home.tiles.read("tile/2/000.p/1") is not None


def test_nothing_new_changes_nothing(home: House) -> None:
    """Not even a signature is made again: an ML-DSA signature would differ."""
    home.append(3)
    log = home.log()
    log.publish()
    before = served(home), home.register.read("register")

    log.publish()
    home.log().publish()

    assert (served(home), home.register.read("register")) == before


def test_the_register_names_what_was_signed(home: House) -> None:
    home.append(5)
    home.log(clock=lambda: TIME + 7.9).publish()

    register = parse_register(home.register.read("register") or b"")

    assert (register.shard.origin, register.shard.size, register.time) == (ORIGIN, 5, TIME + 7)
    assert register.shard.root == naive_root(home.entries())


def test_a_clock_set_back_does_not_set_the_register_back(home: House) -> None:
    log = home.log(clock=iter([TIME + 100, TIME]).__next__)
    for _ in range(2):
        home.append(1)
        log.publish()

    assert parse_register(home.register.read("register") or b"").time == TIME + 100


def test_partial_tiles_go_once_the_full_one_is_there(home: House) -> None:
    log = home.log()
    for count in (200, 56, 44):
        home.append(count)
        log.publish()

    partial = sorted(path for path in served(home) if ".p/" in path)

    assert partial == ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"]


@pytest.mark.parametrize("most_bytes", [1, 50_000, 1 << 20])
def test_a_step_is_bounded_in_entries_and_bytes(home: House, most_bytes: int) -> None:
    """One bundle at least, whatever its size; and every step but the last ends at a full one."""
    home.append(1_500)
    size, sizes = 0, []
    while size < 1_500:
        bundles = gather(home.journal, size, 1_500, most=512, most_bytes=most_bytes)
        assert 1 <= len(bundles) <= 2
        assert sum(map(len, bundles[:-1])) < most_bytes
        size = min(size // 256 * 256 + 256 * len(bundles), 1_500)
        sizes.append(size)

    assert all(each % 256 == 0 for each in sizes[:-1])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=1, max_size=6),
    most=st.sampled_from([1, 256, 512, 40_000]),
)
def test_a_restart_is_as_no_restart(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, bool]], most: int
) -> None:
    """However entries come in batches, and wherever the process ended in between, the same log comes about."""
    path = tmp_path_factory.mktemp("restart")
    opened = House(path).begin()
    log = opened.log(step_entries=most)
    for count, restarts in batches:
        opened.append(count)
        if restarts:
            opened.close()
            opened = House(path)
            log = opened.log(step_entries=most)
        log.publish()

    check_whole(opened)
    wanted = naive_tiles(opened.entries())
    assert {path for path in served(opened) if ".p/" not in path and path != "checkpoint"} == {
        path for path in wanted if ".p/" not in path
    }
    opened.close()


# What it proves


def test_a_receipt_exists_once_it_is_published(home: House) -> None:
    log = home.log()
    home.append(300)
    assert log.proof(0) is None
    log.publish()

    for index in (0, 1, 255, 256, 299):
        proof = parse_proof(log.proof(index) or b"")
        assert proof.index == index
        verify_proof(
            proof,
            leaf_hash(entry(index)),
            parse_policy(f"log {KEYS[0].key}\nquorum none\n".encode()),
            check_inclusion=lambda *given: check_inclusion(*given) is None,
        )
    assert log.proof(300) is None
    with pytest.raises(InvalidInput):
        log.proof(-1)


def test_two_sizes_are_proved_to_be_one_log(home: House) -> None:
    log = home.log()
    home.append(700)
    log.publish()
    entries = home.entries()

    for old in (0, 1, 256, 300, 700):
        check_consistency(old, naive_root(entries[:old]), 700, naive_root(entries), log.consistency(old))
    check_consistency(256, naive_root(entries[:256]), 300, naive_root(entries[:300]), log.consistency(256, 300))
    for sizes in ((0, 701), (301, 300), (-1, 5)):
        with pytest.raises(InvalidInput):
            log.consistency(*sizes)


def test_a_receipt_is_not_given_over_a_changed_tile(home: House) -> None:
    """The server says so itself, instead of handing out what will not verify."""
    home.append(600)
    home.log().publish()
    flip(home.path / "ledger/tile/0/000", 40)

    with pytest.raises(JournalCorrupt, match="size 600"):
        home.log().proof(1)


def test_status_says_how_far_it_is(home: House) -> None:
    log = home.log(witness=lambda note, _: cosigned(note))
    home.append(3)
    assert (log.status().sequenced, log.status().published, log.status().witnessed) == (3, 0, 0)
    log.publish()
    assert (log.status().published, log.status().witnessed) == (3, 0)
    log.collect()
    home.append(1)

    status = log.status()

    assert (status.origin, status.sequenced, status.published, status.witnessed) == (ORIGIN, 4, 3, 3)
    assert not status.refused
    assert status.error == status.witness_error == ""
    assert status.age >= 0
    assert status.witness_age == 0


# What it refuses


def flip(path: Path, at: int) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def published(path: Path, *counts: int) -> None:
    """Publish so many entries, step by step."""
    with house(path) as found:
        found.begin()
        log = found.log()
        for count in counts:
            found.append(count)
            log.publish()


def go_on(path: Path, count: int) -> None:
    """Open it again, and publish more."""
    with house(path) as found:
        found.append(count)
        found.log().publish()


def put_back(path: Path, backup: Path, *parts: str) -> None:
    """Replace parts of a data directory by those of a backup."""
    for part in parts:
        here, there = path / part, backup / part
        here.rename(path.parent / f"away-{part}")
        there.rename(here)


def refuses(path: Path, match: str) -> None:
    """It refuses to open, says why and what to do, and changes nothing."""
    with house(path) as found:
        before = served(found), found.register.read("register")
        with pytest.raises(LogRefused, match=match) as caught:
            found.log()
        assert caught.value.hint
        assert (served(found), found.register.read("register")) == before


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (("journal",), "journal is shorter"),
        (("register",), "register is behind"),
        (("ledger",), "ahead of the tiles"),
        (("journal", "ledger"), "ahead of the tiles"),
        (("journal", "register"), "register is behind"),
    ],
)
def test_a_part_from_a_backup_is_refused(tmp_path: Path, parts: tuple[str, ...], match: str) -> None:
    path = tmp_path / "data"
    published(path, 300)
    backup = copy(path, tmp_path / "backup")
    go_on(path, 300)
    put_back(path, backup, *parts)

    refuses(path, match)


def test_a_register_from_a_backup_is_refused_though_the_checkpoint_is_gone(tmp_path: Path) -> None:
    """The tiles that lie there already are the last to tell, where other entries take the place of those signed."""
    path = tmp_path / "data"
    published(path, 300)
    backup = copy(path, tmp_path / "backup")
    go_on(path, 300)
    put_back(path, backup, "register", "journal")
    (path / "ledger/checkpoint").unlink()

    with house(path) as found:
        log = found.log()
        found.append(300, life="other ")
        with pytest.raises(LogRefused, match="tile/entries/001"):
            log.publish()
        assert parse_register(found.register.read("register") or b"").shard.size == 300


def test_a_whole_directory_from_a_backup_is_refused_where_others_have_seen_more(tmp_path: Path) -> None:
    """Nothing inside can tell; whoever watches from outside can."""
    path = tmp_path / "data"
    published(path, 300)
    with house(path) as found:
        with pytest.raises(LogRefused, match="others have seen 600 entries"):
            found.log(seen=lambda: 600)
        for seen in (300, 0, None):
            assert found.log(seen=lambda answer=seen: answer).publish() == 300


def test_a_changed_tile_on_the_edge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    flip(path / "ledger/tile/0/001.p/44", 1_000)

    refuses(path, "another root than the register")


def test_a_missing_tile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    (path / "ledger/tile/1/000.p/1").unlink()

    refuses(path, "tile/1/000.p/1 is missing")


def test_another_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    other = tmp_path / "other"
    with house(other) as found:
        found.append(300, life="other ")
    put_back(path, other, "journal")

    refuses(path, "journal has other entries than the log among 256 to 511")


def test_a_missing_register_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    (path / "register").unlink()

    refuses(path, "no register")
    with house(path) as found, pytest.raises(LogRefused, match="a log is there already"):
        found.begin()


def test_a_changed_register_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    held = (path / "register").read_bytes()
    for data in (b"", held[:-1], held + b"\n", held.replace(b'"size":300', b'"size":0300'), b'{"v":1}', b"null"):
        (path / "register").write_bytes(data)
        refuses(path, "DATA/register cannot be used")
    (path / "register").write_bytes(held.replace(b'"size":300', b'"size":299'))
    refuses(path, "ahead of the tiles")
    at = held.index(b'"root":"') + 8
    (path / "register").write_bytes(held[:at] + (b"1" if held[at : at + 1] == b"0" else b"0") + held[at + 1 :])
    refuses(path, "another root than the register")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"keys": keys(seed=2)}, "register is that of"),
        ({"keys": KEYS[:1]}, "register is that of"),
        ({"origin": "example.org/other", "keys": keys("example.org/other")}, "register is that of"),
    ],
)
def test_other_keys_are_refused(home: House, given: dict[str, object], match: str) -> None:
    home.append(2)
    home.log().publish()

    with pytest.raises(LogRefused, match=match):
        home.log(**given)


def test_keys_that_make_no_log_are_refused(home: House) -> None:
    for some in (
        [],
        KEYS[1:],
        [SigningKey("example.org/other", KeyType.NOTE, b"x" * 32)],
        [*KEYS, SigningKey(ORIGIN, KeyType.COSIGNATURE, b"x" * 32)],
    ):
        with pytest.raises(ConfigError):
            home.log(keys=some)


def test_a_second_node_is_refused_at_the_register(home: House) -> None:
    """Both have opened the log; who is first goes on, the other signs nothing more."""
    one, two = home.log(), home.log()
    home.append(4)
    one.publish()
    before = served(home)
    home.append(4)

    for _ in range(2):
        with pytest.raises(LogRefused, match="another node signs"):
            two.publish()
    assert two.status().refused
    assert "another node" in two.status().error
    assert served(home)["checkpoint"] == before["checkpoint"]
    assert one.publish() == 8
    check_whole(home)


def test_a_checkpoint_somebody_else_wrote_is_refused(home: House) -> None:
    home.append(4)
    log = home.log()
    log.publish()
    (home.path / "ledger/checkpoint").write_bytes(b"other")
    home.append(4)

    with pytest.raises(LogRefused, match="another node signs"):
        log.publish()
    with pytest.raises(LogRefused, match="is not as this log left it"):
        home.log()


def test_a_checkpoint_of_another_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 3)
    other = keys("example.org/other")
    with house(tmp_path / "other") as found:
        create_register(
            found.register, found.tiles, origin="example.org/other", keys=[key.key for key in other], time=TIME
        )
        found.append(3)
        found.log(origin="example.org/other", keys=other).publish()
        (path / "ledger/checkpoint").write_bytes(found.tiles.read("checkpoint") or b"")

    refuses(path, "is of another log")


def test_two_histories_are_refused(tmp_path: Path) -> None:
    """A checkpoint that this log's own keys signed, over other entries."""
    path = tmp_path / "data"
    published(path, 300)
    with house(tmp_path / "other") as found:
        found.begin()
        found.append(200, life="other ")
        found.log().publish()
        (path / "ledger/checkpoint").write_bytes(found.tiles.read("checkpoint") or b"")

    refuses(path, "not the beginning of the log")


class Flipping(PosixStorage):
    """A disk, or a memory, that changes one bit of what is written below a path."""

    prefix = "none"

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Flip the first bit of the last byte."""
        super().write_many(
            {
                path: data[:-1] + bytes([data[-1] ^ 1]) if path.startswith(self.prefix) else data
                for path, data in files.items()
            }
        )


@pytest.mark.parametrize("prefix", ["tile/entries/001", "tile/0/000", "tile/1", "tile/0/002.p"])
def test_what_reads_back_otherwise_is_not_signed(home: House, prefix: str) -> None:
    """One flipped bit retired a public log once."""
    home.tiles.close()
    tiles = home.tiles = Flipping(home.path / "ledger")
    home.append(100)
    log = home.log()
    log.publish()
    home.append(600)
    tiles.prefix = prefix

    with pytest.raises(LogRefused, match=r"reads back otherwise"):
        log.publish()
    assert shown(home).size == 100
    assert parse_register(home.register.read("register") or b"").shard.size == 100


def test_an_error_of_the_disk_is_no_refusal(home: House) -> None:
    """It is shown, and the next attempt reads again what stands there."""
    log = home.log()
    home.append(4)
    home.tiles.close()
    with pytest.raises(JournalError) as caught:
        log.publish()
    assert not isinstance(caught.value, LogRefused)
    assert log.status().error
    assert not log.status().refused


def test_after_an_error_the_same_log_object_goes_on(home: House) -> None:
    failing = True

    class Once(PosixStorage):
        def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
            """Do it, and say it failed."""
            done = super().compare_and_swap(path, old, new)
            if failing:
                raise JournalError("the storage cannot be written: it is a test")
            return done

    home.register.close()
    home.register = Once(home.path, staging=home.path / ".register.staging")
    log = home.log()
    home.append(300)
    with pytest.raises(JournalError):
        log.publish()
    assert log.status().published == 0
    failing = False

    assert log.publish() == 300
    check_whole(home)
    assert log.status().error == ""


def test_a_log_is_begun_once_and_in_an_empty_place(home: House) -> None:
    with pytest.raises(LogRefused, match="a log is there already: DATA/register"):
        home.begin()


# Witnesses


def test_the_own_checkpoint_is_out_before_the_witnesses_are_asked(home: House) -> None:
    """Then the witnessed one takes its place, of the same size."""
    asked: list[tuple[int, int, int]] = []

    def witness(note: bytes, size: int) -> list[bytes]:
        asked.append((text_of(note).size, size, shown(home).size))
        return cosigned(note)

    log = home.log(witness=witness, policy=POLICY)
    for count in (10, 5):
        home.append(count)
        log.publish()
        own = home.tiles.read("checkpoint") or b""
        assert log.collect() == home.journal.size
        witnessed = home.tiles.read("checkpoint") or b""
        assert witnessed.startswith(own)
        assert len(witnessed) > len(own)
        assert home.tiles.read("checkpoint.witnessed") == witnessed == log.checkpoint
    log.collect()

    assert asked == [(10, 10, 10), (15, 15, 15)]
    assert parse_proof(log.proof(12) or b"").checkpoint == log.checkpoint


def test_late_witnesses_do_not_set_the_log_back(home: House) -> None:
    """The log has gone on while they were asked: the witnessed checkpoint has its own place, receipts use it."""
    log: Log

    def witness(note: bytes, _size: int) -> Iterable[bytes]:
        home.append(5)
        log.publish()
        return cosigned(note)

    log = home.log(witness=witness, policy=POLICY)
    home.append(10)
    log.publish()

    assert log.collect() == 10
    assert shown(home).size == 15
    assert shown(home, "checkpoint.witnessed").size == 10
    assert text_of(parse_proof(log.proof(9) or b"").checkpoint).size == 10
    assert text_of(parse_proof(log.proof(10) or b"").checkpoint).size == 15
    again = home.log(witness=witness, policy=POLICY)
    assert (again.status().published, again.status().witnessed) == (15, 10)


def test_no_quorum_leaves_the_own_checkpoint(home: House) -> None:
    log = home.log(witness=lambda _note, _size: [], policy=POLICY)
    home.append(10)
    log.publish()
    before = served(home)

    assert log.collect() == 0
    assert served(home) == before
    assert "no quorum" in log.status().witness_error
    assert log.status().witness_age > 0


STRANGER = SigningKey("w.example", KeyType.COSIGNATURE, b"s" * 32)


@pytest.mark.parametrize(
    "lines",
    [
        [b"not a line"],
        [b"\n"],
        [b""],
        ["— w.example AAAAAAAA".encode()],
        [cosigned(b"example.org/log\n5\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 x AAAAAAAA\n")[0]],
        [cosigned(b"example.org/log\n5\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 x AAAAAAAA\n", STRANGER)[0]],
    ],
)
def test_what_is_no_quorum_is_not_shown(home: House, lines: list[bytes]) -> None:
    """Rubbish, a cosignature of another checkpoint, and one of a stranger."""
    log = home.log(witness=lambda _note, _size: lines, policy=POLICY)
    home.append(10)
    log.publish()
    before = served(home)

    with pytest.raises(InvalidInput):
        log.collect()
    assert served(home) == before
    assert log.status().witness_error
    home.append(1)
    assert log.publish() == 11


def test_a_witness_that_has_seen_another_log_stops_this_one(home: House) -> None:
    """A whole data directory from a backup: the witnesses remember."""

    def witness(_note: bytes, _size: int) -> list[bytes]:
        raise LogRefused("the witness w has seen 600 entries of this log", hint="restore the newest backup")

    log = home.log(witness=witness)
    home.append(10)
    log.publish()
    with pytest.raises(LogRefused, match="has seen 600"):
        log.collect()
    home.append(10)

    with pytest.raises(LogRefused, match="has seen 600"):
        log.publish()
    assert shown(home).size == 10


def test_a_witnessed_checkpoint_of_another_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    published(path, 300)
    with house(tmp_path / "other") as found:
        found.begin()
        found.append(200, life="other ")
        log = found.log(witness=lambda note, _: cosigned(note))
        log.publish()
        log.collect()
        (path / "ledger/checkpoint.witnessed").write_bytes(found.tiles.read("checkpoint.witnessed") or b"")

    refuses(path, "checkpoint.witnessed of size 200 is not the beginning")


# The runner


def until(condition: object) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def test_a_witness_that_hangs_never_delays_publication(home: House) -> None:
    answer = threading.Event()
    asked = threading.Event()

    def witness(note: bytes, _size: int) -> list[bytes]:
        asked.set()
        answer.wait(WAIT_S)
        return cosigned(note)

    log = home.log(witness=witness, policy=POLICY)
    stop = threading.Event()
    runner = threading.Thread(target=log.run, args=(stop, 0.01))
    home.append(1)
    runner.start()
    assert asked.wait(WAIT_S)
    for _ in range(3):
        home.append(1)
        until(lambda: log.status().published == home.journal.size)
    assert log.status().witnessed == 0
    answer.set()
    until(lambda: log.status().witnessed == home.journal.size)
    stop.set()
    runner.join(WAIT_S)

    assert not runner.is_alive()
    check_whole(home)


def test_what_came_before_the_stop_is_published(home: House) -> None:
    log = home.log()
    home.append(7)
    stop = threading.Event()
    stop.set()

    log.run(stop)

    assert log.status().published == 7


def test_errors_around_it_do_not_end_the_runner(home: House) -> None:
    """A hook of the node fails, a witness fails in its own way; both are shown, and the log goes on."""
    calls: list[int] = []

    def before() -> None:
        calls.append(1)
        raise InvalidInput("the turn of the hour failed")

    def witness(_note: bytes, _size: int) -> list[bytes]:
        raise ZeroDivisionError

    log = home.log(witness=witness)
    stop = threading.Event()
    runner = threading.Thread(target=log.run, args=(stop, 0.005, before))
    runner.start()
    until(lambda: len(calls) > 2 and "ZeroDivisionError" in log.status().witness_error)
    home.append(3)
    until(lambda: log.status().published == 3)
    assert "turn of the hour" in log.status().error
    stop.set()
    runner.join(WAIT_S)

    assert not runner.is_alive()


def test_a_refusal_ends_the_runner(home: House) -> None:
    log = home.log()
    home.append(3)
    home.log().publish()

    log.run(threading.Event(), 0.01)

    assert log.status().refused


def test_readers_are_served_while_it_publishes(home: House) -> None:
    """Proofs fit the checkpoint they carry, whatever the publisher is doing."""
    log = home.log()
    home.append(1)
    log.publish()
    stop = threading.Event()
    runner = threading.Thread(target=log.run, args=(stop, 0.001))
    runner.start()
    policy = parse_policy(f"log {KEYS[0].key}\nquorum none\n".encode())
    try:
        for turn in range(40):
            home.append(20)
            index = turn * 17 % log.status().published
            proof = parse_proof(log.proof(index) or b"")
            found = verify_proof(
                proof,
                leaf_hash(entry(index)),
                policy,
                check_inclusion=lambda *given: check_inclusion(*given) is None,
            ).checkpoint
            check_consistency(1, leaf_hash(entry(0)), found.size, found.root, log.consistency(1, found.size))
    finally:
        stop.set()
        runner.join(WAIT_S)


def test_keys_that_were_lost_can_be_replaced_without_them(home: House) -> None:
    """The shard is closed at the register alone; what was signed stays as it is."""
    home.append(5)
    home.log().publish()
    new = keys("example.org/log/2", 2)

    close_shard(home.register, origin="example.org/log/2", keys=[key.key for key in new], time=TIME)
    home.append(5)
    log = home.log(origin="example.org/log/2", keys=new)

    assert log.publish() == 10
    assert text_of(home.tiles.read("shards/1/checkpoint") or b"").size == 5
