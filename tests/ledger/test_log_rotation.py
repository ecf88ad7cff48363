# SPDX-License-Identifier: Apache-2.0
"""New keys over the same tree: old receipts verify as before, and the new keys are learnt from the old."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.entry import open_field
from shieldwall.core.errors import ConfigError, InvalidInput, JournalError, LimitExceeded
from shieldwall.ledger.cosignature import open_checkpoint
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.log import Log
from shieldwall.ledger.merkle import EMPTY_ROOT, check_consistency, check_inclusion, leaf_hash
from shieldwall.ledger.proof_file import ProofFile, parse_proof, verify_proof
from shieldwall.ledger.register import (
    MAX_CLOSED,
    MAX_REGISTER_BYTES,
    LogRefused,
    Register,
    Shard,
    close_shard,
    next_shard,
    parse_register,
    read_register,
)
from shieldwall.ledger.rotation import check_rotation, seal_rotation
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.trust import parse_policy
from tests.ledger.log_support import KEYS, ORIGIN, TIME, House, cosigned, entry, house, keys, naive_root, text_of

NEXT = f"{ORIGIN}/2"
NEXT_KEYS = keys(NEXT, 2)
SECRET = bytes(range(32))
SHARD = Shard(ORIGIN, 0, EMPTY_ROOT, ("00000001",))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path / "data") as opened:
        yield opened.begin()


def announcement(new: str = NEXT, new_keys: list[SigningKey] | None = None) -> tuple[bytes, bytes]:
    return seal_rotation(
        old=ORIGIN,
        new=new,
        keys=[key.key for key in new_keys or NEXT_KEYS],
        time=TIME * 1_000_000,
        node="node",
        secret=SECRET,
    )


def rotated(home: House) -> Log:
    """A log of six entries that was rotated, and goes on with two more."""
    home.append(5)
    log = home.log(witness=lambda note, _: cosigned(note))
    log.publish()
    log.collect()
    log.rotate(NEXT, NEXT_KEYS, announcement())
    home.append(2)
    found = home.log(origin=NEXT, keys=NEXT_KEYS)
    found.publish()
    return found


def verify(proof: ProofFile, leaf: bytes, key: SigningKey) -> int:
    """Verify a receipt with one key of a log; gives the size it is under."""
    policy = parse_policy(f"log {key.key}\nquorum none\n".encode())
    found = verify_proof(proof, leaf_hash(leaf), policy, check_inclusion=lambda *given: check_inclusion(*given) is None)
    return found.checkpoint.size


def test_receipts_of_both_shards_verify_with_their_own_keys(home: House) -> None:
    home.append(5)
    log = home.log()
    log.publish()
    old = parse_proof(log.proof(3) or b"")
    new = parse_proof(rotated(home).proof(3) or b"")

    assert verify(old, entry(3), KEYS[0]) == 5
    assert verify(new, entry(3), NEXT_KEYS[0]) == 13
    for proof, key in ((old, NEXT_KEYS[0]), (new, KEYS[0])):
        with pytest.raises(InvalidInput):
            verify(proof, entry(3), key)


def test_the_tree_goes_on_under_the_new_name(home: House) -> None:
    """The last checkpoint of the old name is kept with all its signatures, and is the beginning of the new log."""
    log = rotated(home)
    entries = home.entries()
    last = home.tiles.read("shards/1/checkpoint") or b""

    old = open_checkpoint(last, [key.key for key in KEYS]).checkpoint
    new = open_checkpoint(home.tiles.read("checkpoint") or b"", [key.key for key in NEXT_KEYS]).checkpoint
    assert (old.origin, old.size, old.root) == (ORIGIN, 6, naive_root(entries[:6]))
    assert (new.origin, new.size, new.root) == (NEXT, 8, naive_root(entries))
    check_consistency(old.size, old.root, new.size, new.root, log.consistency(old.size))


def test_who_trusts_the_old_keys_learns_the_new_ones_from_the_log(home: House) -> None:
    """The announcement is under the last checkpoint of the old name."""
    rotated(home)
    announced, opening = list(home.journal.entries())[5][1:]
    last = text_of(home.tiles.read("shards/1/checkpoint") or b"")
    assert last.size == 6
    salts = tuple(open_field(opening, name)[1] for name in ("old", "new", "keys"))
    new_keys = [key.key for key in NEXT_KEYS]

    check_rotation(announced, old=ORIGIN, new=NEXT, keys=new_keys, salts=salts)
    check_rotation(announced, old=ORIGIN, new=NEXT, keys=new_keys[::-1], salts=salts)
    for wrong in ({"old": NEXT}, {"new": ORIGIN}, {"keys": new_keys[:1]}, {"keys": [key.key for key in KEYS]}):
        with pytest.raises(InvalidInput):
            check_rotation(announced, **{"old": ORIGIN, "new": NEXT, "keys": new_keys, "salts": salts, **wrong})
    with pytest.raises(InvalidInput):
        check_rotation(entry(0), old=ORIGIN, new=NEXT, keys=new_keys, salts=salts)


def test_the_old_keys_sign_no_more(home: House) -> None:
    """Neither in the process that rotated them nor in one that is started with the old configuration."""
    home.append(5)
    log, other = home.log(), home.log()
    log.rotate(NEXT, NEXT_KEYS, announcement())
    before = home.tiles.read("checkpoint")
    home.append(1)

    for each in (log, other):
        with pytest.raises(LogRefused):
            each.publish()
    with pytest.raises(LogRefused, match=f"the shard {ORIGIN} is closed, the log goes on as {NEXT}"):
        home.log()
    with pytest.raises(LogRefused, match="the register is that of"):
        home.log(origin=NEXT, keys=keys(NEXT, 3))
    assert home.tiles.read("checkpoint") == before


def test_the_new_keys_sign_only_after_the_rotation(home: House) -> None:
    home.append(5)
    home.log().publish()

    with pytest.raises(LogRefused, match="the register is that of"):
        home.log(origin=NEXT, keys=NEXT_KEYS)


@pytest.mark.parametrize(
    ("origin", "new_keys"),
    [
        (ORIGIN, keys(ORIGIN, 2)),
        (NEXT, KEYS),
        (NEXT, NEXT_KEYS[1:]),
        (NEXT, []),
        (f"https://{NEXT}", keys(f"https://{NEXT}", 2)),
        (NEXT, [SigningKey(NEXT, KeyType.COSIGNATURE, b"c" * 32)]),
    ],
)
def test_what_is_no_new_shard_is_refused_before_anything_is_appended(
    home: House, origin: str, new_keys: list[SigningKey]
) -> None:
    home.append(2)
    log = home.log()

    with pytest.raises(ConfigError):
        log.rotate(origin, new_keys, announcement())
    assert home.journal.size == 2
    assert log.publish() == 2


def test_names_and_keys_of_closed_shards_do_not_come_back(home: House) -> None:
    log = rotated(home)
    for origin, new_keys in ((ORIGIN, keys(ORIGIN, 3)), (f"{ORIGIN}/3", KEYS), (NEXT, NEXT_KEYS)):
        with pytest.raises(ConfigError):
            log.rotate(origin, new_keys, announcement())

    third = keys(f"{ORIGIN}/3", 3)
    log.rotate(f"{ORIGIN}/3", third, announcement(f"{ORIGIN}/3", third))
    assert home.log(origin=f"{ORIGIN}/3", keys=third).publish() == 9
    closed = [(each.origin, each.size) for each in read_register(home.register)[0].closed]
    assert closed == [(ORIGIN, 6), (NEXT, 9)]
    assert text_of(home.tiles.read("shards/2/checkpoint") or b"").origin == NEXT


class Failing(PosixStorage):
    """Fails before, or after, each of its writes in turn."""

    left = 1_000
    after = False

    def _fail(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise JournalError("it is a test")

    def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Do it or not, and fail in its turn."""
        if not self.after:
            self._fail()
        done = super().compare_and_swap(path, old, new)
        if self.after:
            self._fail()
        return done


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_a_rotation_that_was_cut_short_is_finished(tmp_path: Path, left: int, *, after: bool) -> None:
    """Whichever step was the last: either the old keys go on and rotate again, or the new ones do."""
    with house(tmp_path) as found:
        found.begin()
        found.append(3)
        found.log().publish()
        found.tiles.close()
        found.register.close()
        tiles = found.tiles = Failing(tmp_path / "ledger", private=["tile/entries"])
        register = found.register = Failing(tmp_path, staging=tmp_path / ".register.staging")
        tiles.after = register.after = after
        tiles.left = register.left = left
        log = found.log()
        failed = False
        try:
            log.rotate(NEXT, NEXT_KEYS, announcement())
        except JournalError:
            failed = True
        assert failed or left > 2
        tiles.left = register.left = 1_000
        if not read_register(register)[0].closed:
            found.log().rotate(NEXT, NEXT_KEYS, announcement())
        assert found.log(origin=NEXT, keys=NEXT_KEYS).publish() == found.journal.size
        shards = read_register(register)[0].closed
        assert [each.origin for each in shards] == [ORIGIN]
        assert text_of(tiles.read("shards/1/checkpoint") or b"").size <= shards[0].size
        assert text_of(tiles.read("checkpoint") or b"").origin == NEXT


def test_two_who_rotate_at_once_do_not_both(home: House) -> None:
    class Late(PosixStorage):
        def compare_and_swap(self, path: str, old: bytes | None, new: bytes) -> bool:
            """Somebody else is faster."""
            third = keys(f"{ORIGIN}/3", 3)
            close_shard(home.register, origin=f"{ORIGIN}/3", keys=[key.key for key in third], time=TIME)
            return super().compare_and_swap(path, old, new)

    late = Late(home.path, staging=home.path / ".late.staging")
    with pytest.raises(LogRefused, match="another node"):
        close_shard(late, origin=NEXT, keys=[key.key for key in NEXT_KEYS], time=TIME)
    late.close()
    assert read_register(home.register)[0].shard.origin == f"{ORIGIN}/3"


# The register's bytes


def test_a_register_reads_back() -> None:
    closed = Shard(ORIGIN, 7, b"\x07" * 32, ("00000001", "ffffffff"))
    register = Register(Shard(NEXT, 9, b"\x09" * 32, ("00000002",)), TIME, (closed,))

    assert parse_register(register.data) == register
    assert register.data == (
        b'{"closed":[{"keys":["00000001","ffffffff"],"origin":"example.org/log","root":"'
        + b"07" * 32
        + b'","size":7}],"keys":["00000002"],"origin":"example.org/log/2","root":"'
        + b"09" * 32
        + b'","size":9,"time":1790000000,"v":1}'
    )


GOOD = Register(SHARD, TIME).data


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v":1', b'"v":2'),
        (b'"v":1', b'"v":"1"'),
        (b',"v":1', b""),
        (b'"v":1', b'"v":1,"w":1'),
        (b'"size":0', b'"size":-1'),
        (b'"size":0', b'"size":1.0'),
        (b'"size":0', b'"size":9007199254740992'),
        (b'"size":0', b'"size": 0'),
        (EMPTY_ROOT.hex().encode(), b"00" * 32),
        (EMPTY_ROOT.hex().encode(), EMPTY_ROOT.hex().upper().encode()),
        (EMPTY_ROOT.hex().encode(), b"00"),
        (b'["00000001"]', b"[]"),
        (b'["00000001"]', b'["00000001","00000001"]'),
        (b'["00000001"]', b'["00000002","00000001"]'),
        (b'["00000001"]', b'["0000000G"]'),
        (b'["00000001"]', b'"00000001"'),
        (b'"example.org/log"', b'"https://example.org/log"'),
        (b'"example.org/log"', b'"example.org/log\\n"'),
        (b'"example.org/log"', b'""'),
        (b'"closed":[]', b'"closed":[{}]'),
        (b'"closed":[]', b'"closed":null'),
        (b"}", b"}}"),
        (b"{", b"\xff{"),
    ],
)
def test_what_is_no_register_is_refused(old: bytes, new: bytes) -> None:
    assert old in GOOD

    with pytest.raises(InvalidInput):
        parse_register(GOOD.replace(old, new, 1))


def test_registers_that_could_not_have_come_about_are_refused() -> None:
    """A shard smaller than the one before it, one name twice, too many shards, too many bytes."""
    with pytest.raises(InvalidInput):
        Register(SHARD, TIME, (Shard(NEXT, 1, bytes(32), ("00000001",)),))
    with pytest.raises(InvalidInput):
        Register(SHARD, TIME, (SHARD,))
    many = tuple(Shard(f"example.org/{number}", 0, EMPTY_ROOT, ("00000001",)) for number in range(MAX_CLOSED + 1))
    with pytest.raises(LimitExceeded):
        Register(SHARD, TIME, many)
    with pytest.raises(LimitExceeded):
        parse_register(b" " * (MAX_REGISTER_BYTES + 1))
    with pytest.raises(ConfigError):
        next_shard(Register(SHARD, TIME, many[1:]), origin=NEXT, keys=[key.key for key in NEXT_KEYS], time=TIME)
    assert len(Register(SHARD, TIME, many[1:]).data) < MAX_REGISTER_BYTES


@given(st.binary(max_size=300), st.integers(0, len(GOOD)), st.integers(0, 8))
def test_any_bytes_are_read_or_refused(data: bytes, at: int, cut: int) -> None:
    for each in (data, GOOD[:at] + data[:3] + GOOD[at + cut :]):
        try:
            found = parse_register(each)
        except InvalidInput:
            continue
        assert found.data == each
