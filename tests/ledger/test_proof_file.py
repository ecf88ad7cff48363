# SPDX-License-Identifier: Apache-2.0
"""A proof file verifies offline, with a policy and the entry; a changed one does not."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint
from shieldwall.ledger.cosignature import cosign, sign_checkpoint
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey, parse_vkey
from shieldwall.ledger.merkle import MAX_PROOF_HASHES, MAX_SIZE
from shieldwall.ledger.note import parse_note, write_note
from shieldwall.ledger.proof_file import (
    MAX_EXTRA_BYTES,
    ProofFile,
    parse_proof,
    verify_proof,
    write_proof,
)
from shieldwall.ledger.trust import parse_policy

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
ENTRIES = [entry.encode() for entry in VECTORS["tessera_testdata_entries"]]
TESSERA = [each for each in VECTORS["checkpoints"] if each["source"].startswith("transparency-dev/tessera")]
LOG = SigningKey("example.org/log", KeyType.NOTE, b"l" * 32)
WITNESS = SigningKey("w.example", KeyType.SUBTREE, b"w" * 32)
POLICY = parse_policy(f"log {LOG.key}\nwitness w {WITNESS.key}\nquorum w\n".encode())


def leaf(entry: bytes) -> bytes:
    """RFC 6962."""
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """RFC 6962."""
    return hashlib.sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """Greatest power of two below."""
    return 1 << (size - 1).bit_length() - 1


def root(hashes: Sequence[bytes]) -> bytes:
    """Tree hash by its definition."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256().digest()
    at = split(len(hashes))
    return node(root(hashes[:at]), root(hashes[at:]))


def path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """Inclusion proof by its definition."""
    if len(hashes) == 1:
        return []
    at = split(len(hashes))
    if index < at:
        return [*path(index, hashes[:at]), root(hashes[at:])]
    return [*path(index - at, hashes[at:]), root(hashes[:at])]


def included(leaf_hash: bytes, index: int, size: int, expected: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof leads to the root, by its definition, from the top down."""

    def climb(index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
        if size == 1:
            return None if proof else leaf_hash
        if not proof:
            return None
        at = split(size)
        below = climb(index, at, proof[:-1]) if index < at else climb(index - at, size - at, proof[:-1])
        if below is None:
            return None
        return node(below, proof[-1]) if index < at else node(proof[-1], below)

    return climb(index, size, proof) == expected


def make(index: int, entries: Sequence[bytes] = ENTRIES, *, witnessed: bool = True, extra: bytes = b"") -> ProofFile:
    """A proof of ours for one of the entries."""
    hashes = [leaf(entry) for entry in entries]
    data = sign_checkpoint(Checkpoint("example.org/log", len(entries), root(hashes)), [LOG], 5)
    note = parse_note(data)
    lines = [*note.signatures, cosign(note.text, WITNESS, 1_750_000_000)] if witnessed else note.signatures
    return ProofFile(index, tuple(path(index, hashes)), write_note(note.text, lines), extra)


@pytest.mark.parametrize("case", TESSERA, ids=lambda case: str(case["size"]))
def test_every_entry_of_a_published_log_is_proved(case: dict[str, Any]) -> None:
    """Tessera's entries under Tessera's checkpoints, whose roots are computed here once more; others are refused."""
    policy = parse_policy(f"log {parse_vkey(case['vkey'])}\nquorum none\n".encode())
    hashes = [leaf(entry) for entry in ENTRIES[: case["size"]]]
    assert root(hashes) == base64.b64decode(case["root"])
    for index in range(case["size"]):
        proof = ProofFile(index, tuple(path(index, hashes)), case["checkpoint"].encode())
        read = parse_proof(write_proof(proof))

        trusted = verify_proof(read, hashes[index], policy, check_inclusion=included)

        assert read == proof
        assert trusted.checkpoint.size == case["size"]
        with pytest.raises(NotVerified, match="not in the log"):
            verify_proof(read, leaf(b"another"), policy, check_inclusion=included)
    beyond = ProofFile(case["size"], (), case["checkpoint"].encode())
    with pytest.raises(NotVerified, match="not below the size"):
        verify_proof(beyond, leaf(b""), policy, check_inclusion=included)


def test_the_inclusion_cases_of_the_vectors() -> None:
    """The judge of these tests agrees with the published cases, and so does a file that carries them."""
    policy = parse_policy(f"log {LOG.key}\nquorum none\n".encode())
    judged = 0
    for case in VECTORS["inclusion_cases"]:
        index, size = case["leafIdx"], case["treeSize"]
        target, leaf_hash = (base64.b64decode(case[name] or "") for name in ("root", "leafHash"))
        hashes = tuple(base64.b64decode(each) for each in case["proof"] or ())
        if len(target) != 32 or len(leaf_hash) != 32 or not 0 <= index <= MAX_SIZE or not 1 <= size <= MAX_SIZE:
            assert case["wantErr"]
            continue
        checkpoint = sign_checkpoint(Checkpoint("example.org/log", size, target), [LOG], 5)
        try:
            read = parse_proof(write_proof(ProofFile(index, hashes, checkpoint)))
            verify_proof(read, leaf_hash, policy, check_inclusion=included)
        except InvalidInput:
            assert case["wantErr"], case["desc"]
        else:
            assert not case["wantErr"], case["desc"]
        judged += 1
    assert judged > 40


def test_a_file_looks_as_specified() -> None:
    """Head, extra data, index, hashes, blank line, checkpoint."""
    proof = make(2, ENTRIES[:5], extra=b"anything")

    lines = write_proof(proof).decode().split("\n")

    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra YW55dGhpbmc=", "index 2"]
    assert [base64.b64decode(line) for line in lines[3:6]] == list(proof.hashes)
    assert lines[6:9] == ["", "example.org/log", "5"]


def test_a_proof_of_a_log_with_one_entry_has_no_hashes() -> None:
    """The blank line follows the index."""
    proof = make(0, ENTRIES[:1])

    assert write_proof(proof).startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\nexample.org/log\n1\n")
    assert verify_proof(parse_proof(write_proof(proof)), leaf(b"one"), POLICY, check_inclusion=included)


def test_a_checkpoint_that_is_not_witnessed_proves_nothing() -> None:
    """However right the hashes are; and what a checking function raises is let through."""

    def raises(*_: Any) -> None:
        raise InvalidInput("a proof does not lead to the root")

    with pytest.raises(NotVerified, match="quorum"):
        verify_proof(make(3, witnessed=False), leaf(ENTRIES[3]), POLICY, check_inclusion=included)
    with pytest.raises(InvalidInput, match="lead to the root"):
        verify_proof(make(3), leaf(ENTRIES[3]), POLICY, check_inclusion=raises)
    assert verify_proof(make(3), leaf(ENTRIES[3]), POLICY, check_inclusion=lambda *_: None).checkpoint.size == 15


def test_a_changed_proof_is_refused() -> None:
    """Index, hashes, their order and number, the checkpoint; nobody vouches for the extra data alone."""
    good = make(6, extra=b"x")
    other = make(6, [*ENTRIES[:-1], b"changed"])
    changes = [
        ProofFile(5, good.hashes, good.checkpoint),
        ProofFile(15, good.hashes, good.checkpoint),
        ProofFile(6, good.hashes[:-1], good.checkpoint),
        ProofFile(6, (*good.hashes, bytes(32)), good.checkpoint),
        ProofFile(6, good.hashes[::-1], good.checkpoint),
        ProofFile(6, (bytes(32), *good.hashes[1:]), good.checkpoint),
        ProofFile(6, good.hashes, other.checkpoint),
        ProofFile(6, other.hashes, good.checkpoint),
        ProofFile(6, good.hashes, good.checkpoint.replace(b"\n15\n", b"\n14\n")),
    ]
    for change in changes:
        with pytest.raises(NotVerified):
            verify_proof(parse_proof(write_proof(change)), leaf(ENTRIES[6]), POLICY, check_inclusion=included)
    unauthenticated = ProofFile(6, good.hashes, good.checkpoint, b"y")
    assert verify_proof(unauthenticated, leaf(ENTRIES[6]), POLICY, check_inclusion=included)


TAIL = make(0, ENTRIES[:2]).checkpoint
HASH = base64.b64encode(bytes(32))
HEAD = b"c2sp.org/tlog-proof@v1\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no blank line"),
        (HEAD + b"index 0\n", "no blank line"),
        (HEAD + b"index 0\n" + HASH + b"\n" + TAIL.partition(b"\n\n")[0], "no blank line"),
        (b"\n\n" + TAIL, "first line"),
        (HEAD.replace(b"v1", b"v2") + b"index 0\n\n" + TAIL, "first line"),
        (HEAD[:-1] + b"\r\nindex 0\n\n" + TAIL, "first line"),
        (b"\xef\xbb\xbf" + HEAD + b"index 0\n\n" + TAIL, "outside ASCII"),
        (HEAD + b"\n" + TAIL, "no line with its index"),
        (HEAD + HASH + b"\n\n" + TAIL, "no line with its index"),
        (HEAD + b"extra YQ==\n\n" + TAIL, "no line with its index"),
        (HEAD + b"extra YQ==\nextra YQ==\nindex 0\n\n" + TAIL, "no line with its index"),
        (HEAD + b"index 0\nextra YQ==\n\n" + TAIL, "hash 1"),
        (HEAD + b"extra \nindex 0\n\n" + TAIL, "extra data"),
        (HEAD + b"extra YR==\nindex 0\n\n" + TAIL, "extra data"),
        (HEAD + b"extra YQ\nindex 0\n\n" + TAIL, "extra data"),
        (HEAD + b"extra YQ==\n" + b"index\n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index \n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index 00\n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index -1\n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index  1\n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index 9223372036854775808\n\n" + TAIL, "the index of the proof"),
        (HEAD + b"index 0\n" + HASH[:-4] + b"\n\n" + TAIL, "hash 1"),
        (HEAD + b"index 0\n" + HASH + b"\n" + HASH + b" \n\n" + TAIL, "hash 2"),
        (HEAD + b"index 0\n" + HASH[:-2] + b"B=\n\n" + TAIL, "hash 1"),
        (HEAD + b"index 0\n\n", "blank line"),
        (HEAD + b"index 0\n\n\n" + TAIL, "line 3 of the checkpoint"),
        (HEAD + b"index 0\n\n" + TAIL[:-1], "line end"),
        (HEAD + b"index 0\n\n" + TAIL.replace(b"\n2\n", b"\n02\n"), "line 2 of the checkpoint"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, reason: str) -> None:
    """One fault each."""
    with pytest.raises(InvalidInput, match=reason):
        parse_proof(data)


def test_limits() -> None:
    """63 hashes and 64 KiB of extra data, and not more, in either direction."""
    most = ProofFile(MAX_SIZE, (bytes(32),) * MAX_PROOF_HASHES, TAIL, bytes(MAX_EXTRA_BYTES))
    assert parse_proof(write_proof(most)) == most
    over = [
        ProofFile(0, (bytes(32),) * (MAX_PROOF_HASHES + 1), TAIL),
        ProofFile(0, (), TAIL, bytes(MAX_EXTRA_BYTES + 1)),
    ]
    for each in over:
        with pytest.raises(LimitExceeded):
            write_proof(each)
    with pytest.raises(LimitExceeded):
        parse_proof(HEAD + b"index 0\n" + (HASH + b"\n") * (MAX_PROOF_HASHES + 1) + b"\n" + TAIL)
    with pytest.raises(LimitExceeded):
        parse_proof(HEAD + b"extra " + base64.b64encode(bytes(MAX_EXTRA_BYTES + 3)) + b"\nindex 0\n\n" + TAIL)
    with pytest.raises(LimitExceeded):
        parse_proof(b"x" * 2_000_000)
    for bad in (ProofFile(-1, (), TAIL), ProofFile(MAX_SIZE + 1, (), TAIL), ProofFile(0, (bytes(31),), TAIL)):
        with pytest.raises(InvalidInput):
            write_proof(bad)
    with pytest.raises(InvalidInput):
        write_proof(ProofFile(0, (), b"no note"))


@given(
    st.integers(0, MAX_SIZE),
    st.lists(st.binary(min_size=32, max_size=32), max_size=6),
    st.binary(max_size=40),
    st.integers(1, 15),
)
@settings(max_examples=60, deadline=None)
def test_a_file_reads_back(index: int, hashes: list[bytes], extra: bytes, size: int) -> None:
    """Whatever it holds."""
    proof = ProofFile(index, tuple(hashes), TESSERA[size]["checkpoint"].encode(), extra)
    assert parse_proof(write_proof(proof)) == proof


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_of_a_file_is_refused_or_leaves_the_same_proof(data: st.DataObject) -> None:
    """One byte anywhere: what is still accepted proves the same entry under the same checkpoint."""
    text = write_proof(make(9))
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.sampled_from([b"", b"\n", b"A", b"=", b"1", b"\xff"]))
    changed = text[:at] + byte + text[at + data.draw(st.integers(0, 1)) :]
    try:
        read = parse_proof(changed)
        assert write_proof(read) == changed
        trusted = verify_proof(read, leaf(ENTRIES[9]), POLICY, check_inclusion=included)
    except InvalidInput:
        return
    assert (read.index, trusted.checkpoint) == (9, parse_checkpoint(parse_note(make(9).checkpoint).text))


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda middle: HEAD + middle + b"\n\n" + TAIL))
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_a_file_or_an_error_of_ours(data: bytes) -> None:
    """What is read is written the same."""
    try:
        read = parse_proof(data)
    except InvalidInput:
        return
    assert write_proof(read) == data
