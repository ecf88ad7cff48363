# SPDX-License-Identifier: Apache-2.0
"""A checkpoint has one way to be written, and nothing else is read as one."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded
from shieldwall.ledger.checkpoint import Checkpoint, check_origin, parse_checkpoint
from shieldwall.ledger.merkle import EMPTY_ROOT, MAX_SIZE
from shieldwall.ledger.note import MAX_NOTE_BYTES, parse_note

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
ROOT = base64.b64encode(bytes(range(32)))
LINES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters=[chr(code) for code in range(32)]),
    min_size=1,
    max_size=20,
)
CHECKPOINTS = st.builds(
    Checkpoint,
    LINES,
    st.integers(1, MAX_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3).map(tuple),
) | st.builds(Checkpoint, LINES, st.just(0), st.just(EMPTY_ROOT))

NAIVE = re.compile(r"[^\x00-\x1f]+\n(0|[1-9][0-9]{0,18})\n[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\n(?:[^\x00-\x1f]+\n)*")
"""The format once more, as one expression: 256 bits are 42 letters, one whose last two bits are zero, and `=`."""


def naive(text: bytes) -> bool:
    """Whether the expression takes it, and the number is in bounds, and an empty log has the root of one."""
    try:
        found = NAIVE.fullmatch(text.decode())
    except UnicodeDecodeError:
        return False
    if found is None or int(found[1]) > MAX_SIZE:
        return False
    return found[1] != "0" or text.split(b"\n")[2] == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize("case", VECTORS["checkpoints"], ids=lambda case: case["source"][-24:])
def test_a_published_checkpoint(case: dict[str, Any]) -> None:
    """Of Tessera and of Go's checksum database, whose origin has spaces."""
    text = parse_note(case["checkpoint"].encode()).text

    checkpoint = parse_checkpoint(text)

    assert checkpoint.size == case["size"]
    assert checkpoint.root == base64.b64decode(case["root"])
    assert checkpoint.origin == case["checkpoint"].partition("\n")[0]
    assert checkpoint.text == text


def test_the_checkpoints_in_other_vectors() -> None:
    """Those of the witness transcript, and the one of the specification of cosignatures."""
    bodies = [step["request_body"].partition("\n\n")[2] for step in VECTORS["witness_add_checkpoint"]["steps"]]
    bodies.append(VECTORS["parse_only_cosigned"]["checkpoint"])

    found = [parse_checkpoint(parse_note(each.encode()).text) for each in bodies]

    assert [each.size for each in found] == [1, 3, 3, 3, 3, 3, 5, 5, 5, 20852163]
    assert found[-1].origin == "example.com/behind-the-sofa"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "three whole lines"),
        (b"\n", "three whole lines"),
        (b"o\n1\n", "three whole lines"),
        (b"o\n1\n" + ROOT, "three whole lines"),
        (b"o\n1\n" + ROOT + b"\nextension", "three whole lines"),
        (b"\n1\n" + ROOT + b"\n", "empty line"),
        (b"o\n1\n" + ROOT + b"\n\n", "empty line"),
        (b"o\n1\n" + ROOT + b"\n\nx\n", "empty line"),
        (b"o\n\n" + ROOT + b"\n", "line 2"),
        (b"o\n01\n" + ROOT + b"\n", "line 2"),
        (b"o\n00\n" + ROOT + b"\n", "line 2"),
        (b"o\n+1\n" + ROOT + b"\n", "line 2"),
        (b"o\n-0\n" + ROOT + b"\n", "line 2"),
        (b"o\n1 \n" + ROOT + b"\n", "line 2"),
        (b"o\n1_0\n" + ROOT + b"\n", "line 2"),
        (b"o\n0x1\n" + ROOT + b"\n", "line 2"),
        ("o\n\u0661\n".encode() + ROOT + b"\n", "line 2"),
        (b"o\n9223372036854775808\n" + ROOT + b"\n", "line 2"),
        (b"o\n" + b"9" * 5000 + b"\n" + ROOT + b"\n", "line 2"),
        (b"o\n1\n\n", "line 3"),
        (b"o\n1\n" + ROOT[:-1] + b"\n", "line 3"),
        (b"o\n1\n" + ROOT + b"=\n", "line 3"),
        (b"o\n1\n" + ROOT[:-2] + b"9=\n", "line 3"),
        (b"o\n1\n" + base64.b64encode(bytes(31)) + b"\n", "line 3"),
        (b"o\n1\n" + base64.b64encode(bytes(33)) + b"\n", "line 3"),
        (b"o\n1\n " + ROOT + b"\n", "line 3"),
        (b"o\n1\n" + ROOT.replace(b"+", b"-").replace(b"/", b"_")[:-1] + b"_\n", "line 3"),
        (b"o\r\n1\n" + ROOT + b"\n", "control character"),
        (b"o\0\n1\n" + ROOT + b"\n", "control character"),
        (b"o\n1\n" + ROOT + b"\nx\ty\n", "control character"),
        (b"\xff\n1\n" + ROOT + b"\n", "not UTF-8 at byte 0"),
        (b"o\n0\n" + ROOT + b"\n", "root of an empty log"),
    ],
)
def test_a_malformed_checkpoint_is_refused(text: bytes, reason: str) -> None:
    """One fault each."""
    assert not naive(text)
    with pytest.raises(InvalidInput, match=reason):
        parse_checkpoint(text)


def test_a_checkpoint_over_the_bound_is_refused() -> None:
    """By its length alone."""
    with pytest.raises(LimitExceeded):
        parse_checkpoint(b"o\n1\n" + ROOT + b"\n" + b"x\n" * (MAX_NOTE_BYTES // 2))


def test_a_witness_may_look_at_an_empty_log_with_a_wrong_root() -> None:
    """It answers 422 for it, and 400 for what is no checkpoint; only who asks for it gets it."""
    text = b"o\n0\n" + ROOT + b"\n"

    assert parse_checkpoint(text, any_empty_root=True) == Checkpoint("o", 0, bytes(range(32)))


@pytest.mark.parametrize(
    "values",
    [
        ("", 1, bytes(32)),
        ("a\nb", 1, bytes(32)),
        ("\ud800", 1, bytes(32)),
        ("o", -1, bytes(32)),
        ("o", MAX_SIZE + 1, bytes(32)),
        ("o", 1, bytes(31)),
        ("o", 1, bytes(32), ("",)),
        ("o", 1, bytes(32), ("a\nb",)),
    ],
)
def test_a_checkpoint_that_would_read_back_as_another_is_not_made(values: tuple[Any, ...]) -> None:
    """A line end in an origin would forge the line after it."""
    with pytest.raises(InvalidInput):
        Checkpoint(*values)


@pytest.mark.parametrize("origin", ["example.org/log", "node-1.example", "a", "例え.テスト/ログ", "x" * 255])
def test_an_origin_a_log_of_ours_may_have(origin: str) -> None:
    """Schemeless URLs."""
    assert check_origin(origin) == origin


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "a b",
        "a+b",
        "a\u2003b",
        "a\nb",
        "\ud800",
        "x" * 256,
        "é" * 128,
        "https://a.example/log",
        "//a/log",
        "a/log/",
    ],
)
def test_an_origin_no_log_of_ours_has(origin: str) -> None:
    """It could not be a key's name, does not fit a cosignature, or is another's on the next machine."""
    with pytest.raises(ConfigError, match="the origin of the log"):
        check_origin(origin)


@given(CHECKPOINTS)
@settings(max_examples=120, deadline=None)
def test_a_checkpoint_reads_back(checkpoint: Checkpoint) -> None:
    """Every one that can be made, and it is the only text for it."""
    assert naive(checkpoint.text)
    assert parse_checkpoint(checkpoint.text) == checkpoint


@given(CHECKPOINTS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_checkpoint_is_refused_or_another(checkpoint: Checkpoint, data: st.DataObject) -> None:
    """One byte put in, left out or changed: read exactly where the expression takes it, and then as that text."""
    text = checkpoint.text
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.sampled_from([b"", b"\n", b"0", b"=", b"A", b" ", b"\r", b"\xff"]))
    changed = text[:at] + byte + text[at + data.draw(st.integers(0, 1)) :]
    if not naive(changed):
        with pytest.raises(InvalidInput):
            parse_checkpoint(changed)
    else:
        assert parse_checkpoint(changed).text == changed


@given(st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_no_checkpoint(data: bytes) -> None:
    """And give an error of ours."""
    assert not naive(data)
    with pytest.raises(InvalidInput):
        parse_checkpoint(data)
