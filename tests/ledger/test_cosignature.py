# SPDX-License-Identifier: Apache-2.0
"""A cosignature holds for one checkpoint, one cosigner and one time, and for nothing else."""

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.cosignature import (
    MAX_TIME,
    check_signature,
    cosign,
    cosigned_text,
    open_checkpoint,
    sign_checkpoint,
    sign_subtree,
    subtree_message,
    verify_subtree,
)
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey, parse_vkey
from shieldwall.ledger.note import parse_note, verify_note, write_note

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
NOW = 1_750_000_000
LOG = SigningKey("example.org/log", KeyType.NOTE, b"l" * 32)
LOG_PQ = SigningKey("example.org/log", KeyType.SUBTREE, b"m" * 32)
WITNESSES = {kind: SigningKey("w.example/1", kind, b"w" * 32) for kind in (KeyType.COSIGNATURE, KeyType.SUBTREE)}
BOTH = pytest.mark.parametrize("kind", WITNESSES)
CHECKPOINT = Checkpoint("example.org/log", 8, hashlib.sha256(b"root").digest())
TEXT = CHECKPOINT.text


def signed_as() -> dict[str, Any]:
    """The generated vector under the name it was signed for: its log was renamed afterwards, which its ids show."""
    text = json.dumps(VECTORS["cosigned"][0]).replace("log.example/shieldwall", "log.example/testudo")
    return dict(json.loads(text))


def naive_message(cosigner: str, time: int, origin: str, end: int, root: bytes) -> bytes:
    """The structure of the specification, packed in one go."""
    one, two = cosigner.encode(), origin.encode()
    kinds = f">12sB{len(one)}sQB{len(two)}sQQ32s"
    return struct.pack(kinds, b"subtree/v1\n\0", len(one), one, time, len(two), two, 0, end, root)


def test_the_cosigned_vector() -> None:
    """Log and both witnesses, with their times; the bytes ML-DSA signs are those of the vector."""
    case = signed_as()
    keys = [parse_vkey(each) for each in (case["log_vkey"], *case["witness_vkeys"])]

    seen = open_checkpoint(case["checkpoint"].encode(), keys)

    assert [(each.key, each.time) for each in seen.signatures] == list(
        zip(keys, [None, *case["timestamps"]], strict=True)
    )
    assert seen.checkpoint.size == 8
    message = subtree_message(
        keys[2].name, case["timestamps"][1], seen.checkpoint.origin, 0, seen.checkpoint.size, seen.checkpoint.root
    )
    assert message.hex() == case["subtree_v1_message_hex"]


def test_the_vector_under_its_new_name_is_refused() -> None:
    """A checkpoint whose origin was edited: neither witness signed that."""
    case = VECTORS["cosigned"][0]
    for vkey in case["witness_vkeys"]:
        with pytest.raises(NotVerified, match="fails"):
            open_checkpoint(case["checkpoint"].encode(), [parse_vkey(vkey)])


def test_the_published_cosigned_checkpoint() -> None:
    """Its keys are not published: its time is read, and what was signed begins as the specification shows."""
    case = VECTORS["parse_only_cosigned"]
    note = parse_note(case["checkpoint"].encode())

    assert [len(each.data) for each in note.signatures] == [64, 72]
    time = int.from_bytes(note.signatures[1].data[:8], "big")
    assert time == case["cosignature_timestamp"]
    assert cosigned_text(time, note.text) == b"cosignature/v1\ntime 1679315147\n" + note.text


@BOTH
def test_a_cosignature_holds_and_states_its_time(kind: KeyType) -> None:
    """Beside the log's own, which states none; a line of 4 + 72 or of 4 + 8 + 2420 bytes."""
    witness = WITNESSES[kind]
    line = cosign(TEXT, witness, NOW)
    data = sign_checkpoint(CHECKPOINT, [LOG], NOW)
    note = parse_note(data)

    seen = open_checkpoint(write_note(note.text, [*note.signatures, line]), [LOG.key, witness.key])

    assert [(each.key, each.time) for each in seen.signatures] == [(LOG.key, None), (witness.key, NOW)]
    assert len(line.data) == {KeyType.COSIGNATURE: 72, KeyType.SUBTREE: 2428}[kind]


@BOTH
def test_a_cosignature_holds_for_nothing_else(kind: KeyType) -> None:
    """Another size, root, origin or time, another cosigner, a cut or a longer line."""
    witness = WITNESSES[kind]
    good = cosign(TEXT, witness, NOW).data
    other = Checkpoint("example.org/log", 8, bytes(32))
    others = [
        (Checkpoint("example.org/log", 9, CHECKPOINT.root).text, good),
        (Checkpoint("example.org/lag", 8, CHECKPOINT.root).text, good),
        (other.text, good),
        (TEXT, struct.pack(">Q", NOW + 1) + good[8:]),
        (TEXT, struct.pack(">Q", 0) + good[8:]),
        (TEXT, struct.pack(">Q", 1 << 63) + good[8:]),
        (TEXT, struct.pack(">Q", 1 << 63) + witness.sign(cosigned_text(1 << 63, TEXT))),
        (TEXT, good[:-1]),
        (TEXT, good + b"\0"),
        (TEXT, good[8:]),
        (TEXT, b""),
        (TEXT, good[:-1] + bytes([good[-1] ^ 1])),
        (TEXT, cosign(TEXT, SigningKey("w.example/1", kind, b"x" * 32), NOW).data),
    ]
    assert check_signature(witness.key, TEXT, good) == NOW
    for text, data in others:
        with pytest.raises(NotVerified):
            check_signature(witness.key, text, data)


def test_what_each_type_covers() -> None:
    """Extension lines are under Ed25519 alone; the cosigner's name is under ML-DSA alone."""
    extended = Checkpoint(CHECKPOINT.origin, CHECKPOINT.size, CHECKPOINT.root, ("extension",)).text
    ed, pq = (cosign(TEXT, WITNESSES[kind], NOW).data for kind in WITNESSES)
    renamed = [SigningKey("w.example/2", kind, b"w" * 32).key for kind in WITNESSES]

    assert check_signature(WITNESSES[KeyType.SUBTREE].key, extended, pq) == NOW
    with pytest.raises(NotVerified):
        check_signature(WITNESSES[KeyType.COSIGNATURE].key, extended, ed)
    assert check_signature(renamed[0], TEXT, ed) == NOW
    with pytest.raises(NotVerified):
        check_signature(renamed[1], TEXT, pq)


@BOTH
def test_a_type_is_not_taken_for_another(kind: KeyType) -> None:
    """What a log signs is no cosignature, even with the same secret."""
    note_key = SigningKey("w.example/1", KeyType.NOTE, b"w" * 32)
    bare = note_key.sign(TEXT)
    line = cosign(TEXT, WITNESSES[kind], NOW)

    with pytest.raises(NotVerified):
        check_signature(WITNESSES[kind].key, TEXT, bare)
    with pytest.raises(NotVerified):
        check_signature(note_key.key, TEXT, line.data)
    with pytest.raises(NotVerified):
        verify_note(parse_note(write_note(TEXT, [line])), [WITNESSES[kind].key])


@BOTH
def test_only_checkpoints_are_cosigned(kind: KeyType) -> None:
    """Neither signed nor verified: the rest of the world has no meaning for a witness."""
    with pytest.raises(InvalidInput):
        cosign(b"hello\n", WITNESSES[kind], NOW)
    with pytest.raises(InvalidInput):
        check_signature(WITNESSES[kind].key, b"hello\n", cosign(TEXT, WITNESSES[kind], NOW).data)
    with pytest.raises(ConfigError, match="does not cosign"):
        cosign(TEXT, LOG, NOW)


@BOTH
def test_a_witness_states_a_time(kind: KeyType) -> None:
    """From 1 to 2^63 - 1, both included."""
    for time in (0, -1, MAX_TIME + 1):
        with pytest.raises(InvalidInput, match="time"):
            cosign(TEXT, WITNESSES[kind], time)
    for time in (1, MAX_TIME):
        assert check_signature(WITNESSES[kind].key, TEXT, cosign(TEXT, WITNESSES[kind], time).data) == time


def test_a_log_signs_with_both_its_keys() -> None:
    """Each alone is enough for who knows that key; the lines stand in the order of the keys."""
    data = sign_checkpoint(CHECKPOINT, [LOG, LOG_PQ], NOW)

    for keys in ([LOG.key], [LOG_PQ.key], [LOG.key, LOG_PQ.key]):
        seen = open_checkpoint(data, keys)
        assert [each.key for each in seen.signatures] == keys
        assert seen.checkpoint == CHECKPOINT


def test_a_log_signs_only_as_itself() -> None:
    """Under its own origin, with a log's key, and with one key in one role."""
    with pytest.raises(ConfigError, match="origin"):
        sign_checkpoint(CHECKPOINT, [SigningKey("example.org/lag", KeyType.NOTE, b"l" * 32)], NOW)
    with pytest.raises(ConfigError, match="witness"):
        sign_checkpoint(CHECKPOINT, [SigningKey("example.org/log", KeyType.COSIGNATURE, b"x" * 32)], NOW)
    same = SigningKey("example.org/log", KeyType.COSIGNATURE, b"l" * 32)
    with pytest.raises(ConfigError, match="two types"):
        sign_checkpoint(CHECKPOINT, [LOG, same], NOW)
    with pytest.raises(ConfigError, match="without a key"):
        sign_checkpoint(CHECKPOINT, [], NOW)


def test_the_signature_of_an_empty_log_with_a_wrong_root_is_looked_at_by_a_witness_only() -> None:
    """The witness must tell a bad signature from a bad root; who opens a checkpoint gets neither."""
    wrong = Checkpoint("example.org/log", 0, bytes(32))
    line = WITNESSES[KeyType.SUBTREE]
    forged = line.sign(naive_message(line.key.name, NOW, wrong.origin, 0, wrong.root))
    signature = struct.pack(">Q", NOW) + forged

    assert check_signature(line.key, wrong.text, signature) == NOW
    with pytest.raises(InvalidInput, match="empty log"):
        cosign(wrong.text, line, NOW)
    with pytest.raises(InvalidInput, match="empty log"):
        parse_checkpoint(wrong.text)


def test_subtrees() -> None:
    """A part of the tree, without a time; from entry 0 on it may state one, and then it is a checkpoint's."""
    key, root = WITNESSES[KeyType.SUBTREE], bytes(range(32))
    part = sign_subtree(key, origin="example.org/log", start=4, end=8, root=root)
    whole = sign_subtree(key, origin=CHECKPOINT.origin, start=0, end=8, root=CHECKPOINT.root, time=NOW)

    assert verify_subtree(key.key, part.data, origin="example.org/log", start=4, end=8, root=root) == 0
    assert check_signature(key.key, TEXT, whole.data) == NOW
    for change in ({"start": 0}, {"start": 5}, {"end": 9}, {"root": bytes(32)}, {"origin": "x"}, {"origin": "x" * 256}):
        bounds: dict[str, Any] = {"origin": "example.org/log", "start": 4, "end": 8, "root": root} | change
        with pytest.raises(NotVerified):
            verify_subtree(key.key, part.data, **bounds)
    dated = struct.pack(">Q", NOW) + part.data[8:]
    with pytest.raises(NotVerified, match="no time"):
        verify_subtree(key.key, dated, origin="example.org/log", start=4, end=8, root=root)
    with pytest.raises(NotVerified):
        verify_subtree(LOG.key, part.data, origin="example.org/log", start=4, end=8, root=root)
    with pytest.raises(ConfigError):
        sign_subtree(LOG, origin="example.org/log", start=4, end=8, root=root)


@pytest.mark.parametrize(
    "values",
    [
        ("", 0, "o", 0, 8, bytes(32)),
        ("é" * 128, 0, "o", 0, 8, bytes(32)),
        ("w", 0, "", 0, 8, bytes(32)),
        ("w", 0, "o" * 256, 0, 8, bytes(32)),
        ("w", -1, "o", 0, 8, bytes(32)),
        ("w", 1 << 63, "o", 0, 8, bytes(32)),
        ("w", 1, "o", 4, 8, bytes(32)),
        ("w", 0, "o", 8, 8, bytes(32)),
        ("w", 0, "o", 9, 8, bytes(32)),
        ("w", 0, "o", -1, 8, bytes(32)),
        ("w", 0, "o", 0, 1 << 63, bytes(32)),
        ("w", 0, "o", 0, 8, bytes(31)),
    ],
)
def test_what_does_not_fit_the_structure_is_not_packed(values: tuple[Any, ...]) -> None:
    """A length in one byte that ran over would make one message of two."""
    with pytest.raises(InvalidInput):
        subtree_message(*values)


@given(
    st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60),
    st.integers(0, MAX_TIME),
    st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60),
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
)
@settings(max_examples=100, deadline=None)
def test_the_message_is_the_structure(cosigner: str, time: int, origin: str, end: int, root: bytes) -> None:
    """Byte for byte what packing it in one go gives."""
    assert subtree_message(cosigner, time, origin, 0, end, root) == naive_message(cosigner, time, origin, end, root)


@given(st.sampled_from(list(WITNESSES)), st.binary(max_size=90) | st.binary(min_size=2428, max_size=2428))
@settings(max_examples=80, deadline=None)
def test_chance_is_no_cosignature(kind: KeyType, data: bytes) -> None:
    """Any bytes of any length give the one error."""
    with pytest.raises(NotVerified):
        check_signature(WITNESSES[kind].key, TEXT, data)


def test_the_base64_of_a_vector_is_ours() -> None:
    """The generated note is written back as it is, 3.3 kB line included."""
    data = VECTORS["cosigned"][0]["checkpoint"].encode()
    note = parse_note(data)

    assert write_note(note.text, note.signatures) == data
    assert len(base64.b64encode(note.signatures[2].data)) > 3_200
