# SPDX-License-Identifier: Apache-2.0
"""A witness answers as the protocol says, and never signs two faces of a log: not in a race, not after a crash."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.cosignature import check_signature, open_checkpoint, sign_checkpoint
from shieldwall.ledger.keys import KeyType, SigningKey, encode_base64, parse_vkey
from shieldwall.ledger.note import parse_note, parse_signatures, write_note, write_signatures
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.witness import (
    MAX_REQUEST_BYTES,
    Answer,
    Request,
    Witness,
    origin_hash,
    parse_request,
    write_request,
)
from tests.ledger.made_log import LOG, NOW, ORIGIN, THIEF, Memory, make_key, prove, root_of, sign

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
ONE = make_key("w.example/ed", KeyType.COSIGNATURE)
TWO = make_key("w.example/pq", KeyType.SUBTREE)
ENTRIES = [b"entry %d" % number for number in range(40)]
OTHERS = [*ENTRIES[:3], b"forged", *ENTRIES[4:]]
"""The same log, with another entry 3."""


def ask(old: int, size: int, entries: list[bytes] = ENTRIES, **kwargs: Any) -> bytes:
    """A request about the log at a size; `entries` say which face it shows."""
    proof = kwargs.pop("proof", None)
    return write_request(
        Request(old, prove(entries, old, size) if proof is None else proof, sign(entries[:size], **kwargs))
    )


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def witness(memory: Memory) -> Witness:
    return make_witness(memory)


def make_witness(storage: Any, *, clock: Any = lambda: NOW, keys: tuple[SigningKey, ...] = (ONE,)) -> Witness:
    return Witness(storage, {ORIGIN: [LOG.key]}, keys, clock=clock)


def test_the_transcript_of_another_witness() -> None:
    """Every answer of a published transcript; for the unknown log as the specification has it now."""
    case = VECTORS["witness_add_checkpoint"]
    key = parse_vkey(case["log_vkey"])
    witness = Witness(Memory(), {key.name: [key]}, [make_key("example.com/witness", KeyType.COSIGNATURE)])
    for step in case["steps"]:
        answer = witness.add_checkpoint(step["request_body"].encode())

        assert answer.status == step["spec_status"], step
        what, text = step["assert_body"].split(" ", 1)
        if what == "==":
            assert answer.body == json.loads(text).encode()
            assert answer.content_type == "text/x.tlog.size"
        elif answer.status == 200:
            assert json.loads(text).encode() in answer.body
    assert key.public.hex() == case["log_public_key_hex"]


def test_both_keys_cosign_and_both_signatures_hold(memory: Memory) -> None:
    """The answer is signature lines, which join the checkpoint."""
    witness = make_witness(memory, keys=(ONE, TWO))

    answer = witness.add_checkpoint(ask(0, 5))

    assert answer.status == 200
    note = parse_note(sign(ENTRIES[:5]))
    seen = open_checkpoint(
        write_note(note.text, [*note.signatures, *parse_signatures(answer.body)]), [LOG.key, ONE.key, TWO.key]
    )
    assert [(each.key, each.time) for each in seen.signatures] == [(LOG.key, None), (ONE.key, NOW), (TWO.key, NOW)]


def test_it_is_on_record_before_it_is_answered(memory: Memory) -> None:
    """What the record says, and nothing else, is what a new process of this witness starts from."""
    make_witness(memory).add_checkpoint(ask(0, 5))

    again = make_witness(memory)

    assert list(memory.files) == [f"witness/{hashlib.sha256(ORIGIN.encode()).hexdigest()}"]
    assert again.add_checkpoint(ask(0, 9)) == Answer(409, "text/x.tlog.size", b"5\n")
    assert again.add_checkpoint(ask(5, 9)).status == 200


@pytest.mark.parametrize(
    ("old", "size", "status"), [(0, 0, 200), (0, 1, 200), (0, 40, 200), (3, 40, 409), (9, 5, 400), (6, 5, 400)]
)
def test_the_first_checkpoint_is_believed(witness: Witness, old: int, size: int, status: int) -> None:
    """Of any size, but from old size 0 alone. That the old size is over the size is told first."""
    body = ask(min(old, size), size).replace(b"old %d\n" % min(old, size), b"old %d\n" % old, 1)

    assert witness.add_checkpoint(body).status == status


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 39])
def test_it_grows_by_proof(witness: Witness, size: int) -> None:
    """The right proof is taken; none, a cut one, one hash more, one bit other and that of another size are not."""
    witness.add_checkpoint(ask(0, size))
    proof = prove(ENTRIES, size, 40)
    wrong = [
        proof[:-1],
        proof[1:],
        (*proof, bytes(32)),
        (),
        (bytes(32), *proof[1:]),
        prove(ENTRIES, size, 38 + size % 2),
    ]
    answers = [witness.add_checkpoint(ask(size, 40, proof=each)) for each in wrong if each != proof]

    assert {answer.status for answer in answers} == {422}
    assert witness.add_checkpoint(ask(size, 40, proof=proof)).status == 200


def test_the_same_again_is_cosigned_anew(memory: Memory) -> None:
    """With a later time, which is how a log that is idle stays fresh."""
    times = iter([NOW, NOW + 50])
    witness = make_witness(memory, clock=lambda: next(times))
    witness.add_checkpoint(ask(0, 5))

    (line,) = parse_signatures(witness.add_checkpoint(ask(5, 5)).body)

    assert check_signature(ONE.key, parse_note(sign(ENTRIES[:5])).text, line.data) == NOW + 50


def test_a_fork_of_the_same_size_is_refused_and_kept(memory: Memory, witness: Witness) -> None:
    """Both faces carry the log's signature: whoever has them needs no word of ours."""
    witness.add_checkpoint(ask(0, 5))

    answer = witness.add_checkpoint(ask(5, 5, OTHERS))

    assert answer.status == 422
    assert "two roots for 5 entries" in witness.trouble[ORIGIN]
    kept = [memory.files[f"witness/forks/{origin_hash(ORIGIN)}/{name}"] for name in ("recorded", "presented")]
    faces = [open_checkpoint(each, [LOG.key]).checkpoint for each in kept]
    assert [face.size for face in faces] == [5, 5]
    assert faces[0].root != faces[1].root


@pytest.mark.parametrize("size", [4, 6, 8, 40])
def test_a_larger_fork_is_refused(witness: Witness, size: int) -> None:
    """With the proof that would be right in the other log."""
    witness.add_checkpoint(ask(0, 4))
    assert witness.add_checkpoint(ask(4, size, OTHERS)).status == 422
    assert witness.add_checkpoint(ask(4, size)).status == 200


def test_an_empty_log_has_one_root(witness: Witness) -> None:
    """That of no entries; another one is 422, after the signature was looked at. The first real one needs no proof."""
    note = parse_note(sign([]))
    text = Checkpoint(ORIGIN, 0, bytes(32)).text
    forged = write_note(text, parse_note(sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), [LOG], 1)).signatures)

    assert witness.add_checkpoint(b"old 0\n\n" + write_note(text, note.signatures)).status == 403
    assert witness.add_checkpoint(b"old 0\n\n" + forged).status == 422
    assert witness.add_checkpoint(ask(0, 0)).status == 200
    assert witness.add_checkpoint(ask(0, 0, proof=(bytes(32),))).status == 422
    assert witness.add_checkpoint(ask(0, 3, proof=(bytes(32),))).status == 422
    assert witness.add_checkpoint(ask(0, 3)).status == 200


def test_who_signed_is_asked_in_the_order_of_the_specification(witness: Witness) -> None:
    """Unknown log, then signature, then sizes, then record, then proof: the first that fails is told."""
    witness.add_checkpoint(ask(0, 5))
    unknown = make_key("example.org/other")
    both = b"old 9\n\n" + sign(ENTRIES[:3], log=unknown, origin="example.org/other")
    thief = b"old 9\n\n" + sign(ENTRIES[:3], log=THIEF)
    sizes = b"old 9\n\n" + sign(ENTRIES[:3])
    record = ask(4, 9, proof=(bytes(32),))

    assert [witness.add_checkpoint(each).status for each in (both, thief, sizes, record)] == [404, 403, 400, 409]


def test_other_signatures_are_passed_over_but_one_of_the_log_has_to_hold(memory: Memory) -> None:
    """Those of unknown keys are neither looked at nor kept."""
    witness = make_witness(memory)
    note = parse_note(sign(ENTRIES[:5], witnesses=[make_key("x.example", KeyType.COSIGNATURE)]))
    (own, other), broken = note.signatures, parse_note(sign(ENTRIES[:6])).signatures
    ask_with = [[other], [own, *broken], [*broken, own], [own, other, own]]

    statuses = [witness.add_checkpoint(b"old 0\n\n" + write_note(note.text, each)).status for each in ask_with]

    assert statuses == [403, 403, 403, 200]
    kept = parse_note(memory.files[f"witness/{origin_hash(ORIGIN)}"])
    assert [line.name for line in kept.signatures] == [ORIGIN, ONE.key.name]


BAD = {
    "empty": b"",
    "no blank line": b"old 0\n",
    "no checkpoint": b"old 0\n\n",
    "no old": sign(ENTRIES[:5]),
    "two spaces": b"old  0\n\n" + sign(ENTRIES[:5]),
    "leading zero": b"old 00\n\n" + sign(ENTRIES[:5]),
    "sign": b"old +0\n\n" + sign(ENTRIES[:5]),
    "other digits": "old \N{ARABIC-INDIC DIGIT THREE}\n\n".encode() + sign(ENTRIES[:5]),
    "too great": b"old 9223372036854775808\n\n" + sign(ENTRIES[:5]),
    "short hash": b"old 0\nAAAA\n\n" + sign(ENTRIES[:5]),
    "stray bits": b"old 0\n" + b"A" * 42 + b"B=\n\n" + sign(ENTRIES[:5]),
    "carriage return": b"old 0\r\n\n" + sign(ENTRIES[:5]),
    "64 hashes": b"old 0\n" + b"A" * 43 + b"=\n" + (b"A" * 43 + b"=\n") * 63 + b"\n" + sign(ENTRIES[:5]),
    "no signature": b"old 0\n\n" + parse_note(sign(ENTRIES[:5])).text,
    "not a checkpoint": b"old 0\n\nexample.org/log\nhello\n\n" + write_signatures(parse_note(sign([])).signatures),
    "root too short": b"old 0\n\nexample.org/log\n1\nAAAA\n\n" + write_signatures(parse_note(sign([])).signatures),
    "not UTF-8": b"old 0\n\n\xff\n0\n\n",
    "too long": b"old 0\n\n" + bytes(MAX_REQUEST_BYTES),
    "long text": b"old 0\n\n" + sign_checkpoint(Checkpoint(ORIGIN, 0, root_of([]), ("x" * 66_000,)), [LOG], 1),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_400(memory: Memory, witness: Witness, body: bytes) -> None:
    """Nothing is recorded."""
    answer = witness.add_checkpoint(body)

    assert answer.status == 400
    assert answer.content_type.startswith("text/plain")
    assert not memory.files


def test_what_is_written_is_read() -> None:
    """And what could not be read is not written."""
    request = Request(3, (bytes(32), bytes(range(32))), sign(ENTRIES[:5]))

    assert parse_request(write_request(request)) == request
    assert write_request(request).startswith(f"old 3\n{encode_base64(bytes(32))}\n".encode())
    for wrong in (Request(-1, (), b"x"), Request(0, (b"x",), b"x"), Request(0, (bytes(32),) * 64, b"x")):
        with pytest.raises(InvalidInput):
            write_request(wrong)
    with pytest.raises(LimitExceeded):
        parse_request(bytes(MAX_REQUEST_BYTES + 1))


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda data: b"old 0\n\n" + data))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    """Each gets an answer, none of them a signature."""
    assert make_witness(Memory()).add_checkpoint(data).status in {400, 403, 404}


def test_the_monitoring_endpoint_shows_what_was_cosigned_last(witness: Witness) -> None:
    """With the signature of the log and ours; 404 before the first, and for every other path."""
    path = hashlib.sha256(ORIGIN.encode()).hexdigest()
    assert witness.latest(path).status == 404
    witness.add_checkpoint(ask(0, 5))
    witness.add_checkpoint(ask(5, 9))

    answer = witness.latest(path)

    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    seen = open_checkpoint(answer.body, [LOG.key, ONE.key])
    assert seen.checkpoint.size == 9
    assert [each.key for each in seen.signatures] == [LOG.key, ONE.key]
    assert {witness.latest(each).status for each in ("", path.upper(), path[:-1], "../x")} == {404}


def test_a_faster_request_wins_and_the_slower_is_not_signed(memory: Memory, witness: Witness) -> None:
    """The race of the specification: while one is being checked the other is recorded."""
    witness.add_checkpoint(ask(0, 5))
    memory.before_swap = lambda: make_witness(memory).add_checkpoint(ask(5, 12))

    answer = witness.add_checkpoint(ask(5, 8))

    assert answer == Answer(409, "text/x.tlog.size", b"12\n")
    assert parse_checkpoint(parse_note(memory.files[f"witness/{origin_hash(ORIGIN)}"]).text).size == 12


def test_many_at_once_sign_one_line_of_growth(tmp_path: Any) -> None:
    """On a real disk, from threads and two storages: of each old size one checkpoint only was signed."""
    storages = [PosixStorage(tmp_path / "w"), PosixStorage(tmp_path / "w")]
    witnesses = [make_witness(each) for each in storages]
    bodies = [ask(0, 3), *(ask(3, size, face) for size in (5, 6, 7) for face in (ENTRIES, OTHERS))]
    witnesses[0].add_checkpoint(bodies[0])
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda at: witnesses[at % 2].add_checkpoint(bodies[at]), range(1, 7)))

    assert [answer.status for answer in answers].count(200) == 1
    for each in storages:
        each.close()


def test_a_disk_that_fails_signs_nothing_and_is_seen(memory: Memory, witness: Witness) -> None:
    """No lines leave; the reason is for the health page, not for the stranger who asked."""
    memory.fail = True

    answer = witness.add_checkpoint(ask(0, 5))

    assert answer.status == 500
    assert b"disk" not in answer.body
    assert witness.trouble == {ORIGIN: "the disk is gone"}
    assert witness.latest(origin_hash(ORIGIN)).status == 500
    memory.fail = False
    assert witness.add_checkpoint(ask(0, 5)).status == 200
    assert witness.trouble == {}


def test_a_damaged_record_is_not_taken_for_none(memory: Memory, witness: Witness) -> None:
    """Cut, flipped or another log's: with a record that says nothing, anything could be signed."""
    witness.add_checkpoint(ask(0, 5))
    path = f"witness/{origin_hash(ORIGIN)}"
    whole = memory.files[path]
    flipped = whole.replace(b"\n5\n", b"\n6\n")
    other = sign(ENTRIES[:5], log=make_key("example.org/other"), origin="example.org/other")
    for damaged in (b"", whole[:-5], whole[: len(whole) // 2], flipped, other):
        memory.files[path] = damaged

        assert witness.add_checkpoint(ask(5, 9)).status == 500, damaged
        assert witness.add_checkpoint(ask(0, 9)).status == 500, damaged


def test_its_own_keys_may_change(memory: Memory, witness: Witness) -> None:
    """The record is kept, although its line is by a key that is gone."""
    witness.add_checkpoint(ask(0, 5))
    new = make_witness(memory, keys=(make_key("w.example/new", KeyType.COSIGNATURE),))

    assert new.add_checkpoint(ask(0, 9)).status == 409
    assert new.add_checkpoint(ask(5, 9)).status == 200


@pytest.mark.parametrize(("now", "status"), [(NOW - 60, 200), (NOW - 61, 503), (0, 503), (NOW + 10**6, 200)])
def test_time_never_goes_back(memory: Memory, now: int, status: int) -> None:
    """A clock that was set back a little is waited for; further back nothing is signed."""
    make_witness(memory).add_checkpoint(ask(0, 5))

    answer = make_witness(memory, clock=lambda: now).add_checkpoint(ask(5, 9))

    assert answer.status == status
    if status == 200:
        (line,) = parse_signatures(answer.body)
        assert check_signature(ONE.key, parse_note(sign(ENTRIES[:9])).text, line.data) == max(now, NOW)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 12)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_all_it_ever_signed_is_one_log(steps: list[tuple[bool, int, int]]) -> None:
    """Whatever is asked, with a fork beside the log: all signed checkpoints begin with one another."""
    witness = make_witness(Memory())
    signed = []
    for is_fork, old, size in steps:
        face = OTHERS if is_fork else ENTRIES
        proof = prove(face, old, size) if old <= size else ()
        if witness.add_checkpoint(ask(old, size, face, proof=proof)).status == 200:
            signed.append((face, size))

    assert [size for _, size in signed] == sorted(size for _, size in signed)
    for face, size in signed:
        assert signed[-1][0][:size] == face[:size]


def test_keys_that_must_not_be_together_are_refused() -> None:
    """A witness without a key, with one of a log, with the log's own; a log with a witness's key or a long name."""
    storage = Memory()
    same = SigningKey("w.example/same", KeyType.COSIGNATURE, b"s" * 32)
    cases: list[tuple[dict[str, Any], list[SigningKey]]] = [
        ({ORIGIN: [LOG.key]}, []),
        ({ORIGIN: [LOG.key]}, [LOG]),
        ({ORIGIN: [LOG.key]}, [ONE, ONE]),
        ({ORIGIN: []}, [ONE]),
        ({ORIGIN: [ONE.key]}, [ONE]),
        ({ORIGIN: [make_key("x.example", KeyType.COSIGNATURE).key]}, [ONE]),
        ({ORIGIN: [TWO.key]}, [TWO]),
        ({ORIGIN: [SigningKey(ORIGIN, KeyType.NOTE, b"s" * 32).key]}, [same]),
        ({"x" * 256: [LOG.key]}, [ONE]),
    ]
    for logs, keys in cases:
        with pytest.raises(ConfigError):
            Witness(storage, logs, keys)
