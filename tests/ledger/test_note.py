# SPDX-License-Identifier: Apache-2.0
"""A note is believed when a known key signed it, and refused when a known key's signature fails."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey, VKey, encode_base64, parse_vkey
from shieldwall.ledger.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    Signature,
    parse_note,
    parse_signatures,
    sign_note,
    verify_note,
    write_note,
    write_signatures,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
PUBLISHED = [
    *((each["vkey"], each["note"]) for each in VECTORS["notes"]),
    # One was renamed after it was signed (see `test_ledger_keys`): here it has its own name back.
    *(
        (each["vkey"].replace("shieldwall", "testudo"), each["checkpoint"].replace("shieldwall", "testudo"))
        for each in VECTORS["checkpoints"]
    ),
]
ALICE = SigningKey("example.org/alice", KeyType.NOTE, b"a" * 32)
BOB = SigningKey("example.org/bob", KeyType.NOTE, b"b" * 32)
TEXT = "One line.\n\nAnd, after a blank one, another: é.\n".encode()
BLOB = encode_base64(bytes(68)).encode()

LINES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters=[chr(code) for code in range(32)]), max_size=20
)
TEXTS = st.lists(LINES, min_size=1, max_size=5).map(lambda lines: "".join(f"{line}\n" for line in lines).encode())


def naive_split(data: bytes) -> tuple[bytes, list[bytes]]:
    """Text and signature lines, read from the end line by line."""
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    signatures = []
    while lines[-1]:
        signatures.insert(0, lines.pop().encode())
    lines.pop()
    return "".join(f"{line}\n" for line in lines).encode(), signatures


@pytest.mark.parametrize(("vkey", "note"), PUBLISHED)
def test_a_published_note_is_verified_and_written_as_it_was(vkey: str, note: str) -> None:
    """Notes of C2SP and Go, checkpoints of Tessera."""
    data, key = note.encode(), parse_vkey(vkey)
    read = parse_note(data)

    (found,) = verify_note(read, [key])

    assert (found.key, found.time) == (key, None)
    assert write_note(read.text, read.signatures) == data


@pytest.mark.parametrize(("vkey", "note"), PUBLISHED[:4])
def test_any_flipped_bit_of_a_published_note_is_noticed(vkey: str, note: str) -> None:
    """It cannot be read, or nobody known signed it, or the signature fails; stray bits aside, which mean nothing."""
    data, key = note.encode(), parse_vkey(vkey)
    for at in range(len(data)):
        for bit in (1, 128):
            flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            try:
                read = parse_note(flipped)
            except InvalidInput:
                continue
            if read != parse_note(data):
                with pytest.raises(NotVerified):
                    verify_note(read, [key])


@pytest.mark.parametrize("step", VECTORS["witness_add_checkpoint"]["steps"])
def test_the_checkpoints_of_the_witness_transcript(step: dict[str, Any]) -> None:
    """One ends in stray bits and a changed byte: it is read and fails; one is of an unknown log: nobody signed it."""
    key = parse_vkey(VECTORS["witness_add_checkpoint"]["log_vkey"])
    note = parse_note(step["request_body"].partition("\n\n")[2].encode())

    if step["spec_status"] in {403, 404}:
        with pytest.raises(NotVerified, match="fails" if step["spec_status"] == 403 else "no known key"):
            verify_note(note, [key])
    else:
        assert [each.key for each in verify_note(note, [key])] == [key]


def test_stray_bits_after_a_signature_are_let_pass() -> None:
    """Another implementation writes them; the bytes are the same, and they are what is verified."""
    good = VECTORS["notes"][0]["note"]
    assert good.endswith("aQM=\n")

    stray = parse_note((good[:-3] + "N=\n").encode())

    assert stray == parse_note(good.encode())
    assert verify_note(stray, [parse_vkey(VECTORS["notes"][0]["vkey"])])


def test_lines_of_unknown_keys_are_passed_over() -> None:
    """Sharing a name or an id with a known key does not make a line known."""
    good = sign_note(TEXT, ALICE)
    strangers = [Signature(ALICE.key.name, good.id ^ 1, b"x"), Signature("example.org/eve", good.id, b"x")]
    note = parse_note(write_note(TEXT, [strangers[0], good, strangers[1]]))

    assert [each.key for each in verify_note(note, [BOB.key, ALICE.key])] == [ALICE.key]
    with pytest.raises(NotVerified, match="no known key"):
        verify_note(note, [BOB.key])
    with pytest.raises(NotVerified, match="no known key"):
        verify_note(note, [])


def test_one_failing_signature_of_a_known_key_refuses_the_note() -> None:
    """Although the other one holds, in either order, and although the same key signed well too."""
    good, bad = sign_note(TEXT, ALICE), Signature(BOB.key.name, BOB.key.id, sign_note(TEXT, ALICE).data)
    forged = Signature(ALICE.key.name, ALICE.key.id, bytes(64))
    for lines in ([good, bad], [bad, good], [good, forged]):
        with pytest.raises(NotVerified, match="by a known key fails"):
            verify_note(parse_note(write_note(TEXT, lines)), [ALICE.key, BOB.key])


def test_a_signature_line_in_the_text_is_text() -> None:
    """The last blank line divides: what stands before it was signed, whatever it looks like."""
    inner = write_note(b"inner\n", [sign_note(b"inner\n", ALICE)])
    data = write_note(inner, [sign_note(inner, BOB)])
    note = parse_note(data)

    assert note.text == inner
    assert [each.key for each in verify_note(note, [ALICE.key, BOB.key])] == [BOB.key]


def test_sixteen_post_quantum_signatures_fit() -> None:
    """And a hundred do; one more is refused before any is looked at."""
    big = Signature("witness.example/w", 7, bytes(2428))

    assert len(parse_note(write_note(TEXT, [big] * 16)).signatures) == 16
    data = write_note(TEXT, [big] * MAX_SIGNATURES)
    assert len(parse_note(data).signatures) == MAX_SIGNATURES
    with pytest.raises(LimitExceeded, match="over 100"):
        parse_note(data + write_signatures([big]))
    with pytest.raises(InvalidInput, match="1 to 100"):
        write_note(TEXT, [big] * (MAX_SIGNATURES + 1))


def test_a_note_over_the_bound_is_refused() -> None:
    """By its length alone."""
    long = b"x" * MAX_NOTE_BYTES + b"\n"

    with pytest.raises(LimitExceeded):
        parse_note(long)
    with pytest.raises(LimitExceeded):
        parse_signatures(long)
    with pytest.raises(LimitExceeded):
        write_note(long, [sign_note(TEXT, ALICE)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no blank line"),
        (b"text\n", "no blank line"),
        ("text\n— a ".encode() + BLOB + b"\n", "no blank line"),
        ("\n— a ".encode() + BLOB + b"\n", "no blank line"),
        (b"text\n\n", "do not end"),
        (b"text\n\n\n", "do not end"),
        ("text\n\n— a ".encode() + BLOB, "do not end"),
        (b"text\r\n\r\n", "no blank line"),
        (b"a\rb\n\n", "control character at byte 1"),
        (b"a\tb\n\n", "control character"),
        (b"\0\n\n", "control character at byte 0"),
        (b"\xff\n\n", "not UTF-8 at byte 0"),
        (b"\xed\xa0\x80\n\n", "not UTF-8"),
        (b"text\n\n- a " + BLOB + b"\n", "line 1 .* em dash"),
        ("text\n\n—a ".encode() + BLOB + b"\n", "em dash and a space"),
        ("text\n\n— a".encode() + b"\n", "has no signature"),
        ("text\n\n—  ".encode() + BLOB + b"\n", "names no key"),
        ("text\n\n— a+b ".encode() + BLOB + b"\n", "names no key"),
        ("text\n\n— a\u00a0b ".encode() + BLOB + b"\n", "names no key"),
        ("text\n\n— a\tb ".encode() + BLOB + b"\n", "names no key"),
        ("text\n\n— a\x01 ".encode() + BLOB + b"\n", "names no key"),
        ("text\n\n— \xe9 ".encode("latin-1", "replace") + BLOB + b"\n", "em dash"),
        ("text\n\n— ".encode() + b"\xff " + BLOB + b"\n", "not UTF-8"),
        ("text\n\n— a b ".encode() + BLOB + b"\n", "not base64"),
        ("text\n\n— a ".encode() + BLOB + b" \n", "not base64"),
        ("text\n\n— a ".encode() + BLOB[:-1] + b"\n", "not base64"),
        ("text\n\n— a ".encode() + b"!" + BLOB[1:] + b"\n", "not base64"),
        ("text\n\n— a ".encode() + b"AAAA=AAA\n", "not base64"),
        ("text\n\n— a ".encode() + b"=\n", "not base64"),
        ("text\n\n— a AAAAAA==\n".encode(), "not base64 of an id and a signature"),
        ("text\n\n— a ".encode() + BLOB + b"\nx\n", "signature line 2"),
    ],
)
def test_a_malformed_note_is_refused(data: bytes, reason: str) -> None:
    """One fault each, and what is said names it."""
    with pytest.raises(InvalidInput, match=reason):
        parse_note(data)


def test_what_could_not_be_read_is_not_written() -> None:
    """The writer holds itself to what the reader asks."""
    good = sign_note(TEXT, ALICE)
    for text in (b"", b"no end", b"a\x00\n", b"\xff\n"):
        with pytest.raises(InvalidInput):
            write_note(text, [good])
        with pytest.raises(InvalidInput):
            sign_note(text, ALICE)
    for bad in (
        Signature("", 1, b"x"),
        Signature("a b", 1, b"x"),
        Signature("a", 1, b""),
        Signature("a", 1 << 32, b"x"),
    ):
        with pytest.raises(InvalidInput):
            write_note(TEXT, [bad])
    with pytest.raises(InvalidInput):
        write_note(TEXT, [])


def test_only_type_01_signs_and_verifies_a_text() -> None:
    """A witness's key signs no bare text: that is what keeps its cosignatures apart."""
    witness = SigningKey("example.org/w", KeyType.COSIGNATURE, b"w" * 32)
    with pytest.raises(ConfigError, match="type 04"):
        sign_note(TEXT, witness)
    forged = Note(TEXT, (Signature(witness.key.name, witness.key.id, witness.sign(TEXT)),))

    with pytest.raises(NotVerified):
        verify_note(forged, [witness.key])
    with pytest.raises(ConfigError):
        verify_note(forged, [witness.key, SigningKey("example.org/w", KeyType.NOTE, b"w" * 32).key])


@given(TEXTS, st.lists(st.sampled_from([ALICE, BOB]), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_a_note_reads_back(text: bytes, keys: list[SigningKey]) -> None:
    """Text and signatures, each verified, as a reader that goes line by line finds them too."""
    data = write_note(text, [sign_note(text, key) for key in keys])
    note = parse_note(data)

    assert note.text == text
    assert [each.key for each in verify_note(note, [ALICE.key, BOB.key])] == [key.key for key in keys]
    assert naive_split(data) == (text, write_signatures(note.signatures).splitlines())


@given(st.binary(max_size=120) | TEXTS.map(lambda text: text + "\n— a ".encode() + BLOB + b"\n"))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_note_or_an_error_of_ours(data: bytes) -> None:
    """What is read can be written and read again."""
    try:
        note = parse_note(data)
    except InvalidInput:
        return
    assert parse_note(write_note(note.text, note.signatures)) == note
    known: list[VKey] = [ALICE.key]
    with pytest.raises(NotVerified):
        verify_note(note, known)
