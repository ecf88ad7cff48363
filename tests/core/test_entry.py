# SPDX-License-Identifier: Apache-2.0
"""An entry says who decided what, hides everything private, and can be opened one field at a time."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.codec import MAX_INTEGER, canonical, parse
from shieldwall.core.entry import (
    MAX_ENTRY_BYTES,
    SALT_BYTES,
    Entry,
    EntryType,
    check_field,
    check_findings,
    open_field,
    open_findings,
    read_entry,
    seal_entry,
)
from shieldwall.core.errors import InvalidInput, LimitExceeded
from shieldwall.core.event import Surface
from shieldwall.core.verdict import Category, Finding

GOLDEN = Path(__file__).parents[1] / "golden" / "entry-v1.json"
SECRET = bytes(range(32))


def parts(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "type": EntryType.DECISION_REQUEST,
        "time": 1_790_000_000_000_000,
        "node": "local",
        "event": "01997fb0-1234-7abc-8def-0123456789ab",
        "subject": "5d41402abc4b2a76b9719d911017c592",
        "policy": "ab" * 32,
        "model": "gpt-x",
        "action": "block",
        "score": 970_000,
        "findings": [],
        "fields": {"tenant": "acme", "route": "/v1/chat/completions"},
        "secret": SECRET,
    }
    return plain | changes


def sealed(**changes: Any) -> tuple[bytes, bytes]:
    return seal_entry(**parts(**changes))


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["name"])
def test_the_bytes_of_the_format_do_not_change(case: dict[str, Any]) -> None:
    """Golden file: the same parts give the same entry and opening, and each commitment opens with its salt."""
    given_parts = case["in"] | {"type": EntryType(case["in"]["type"]), "secret": bytes.fromhex(case["in"]["secret"])}

    entry, opening = seal_entry(**given_parts)

    assert entry.decode() == case["entry"]
    assert opening.decode() == case["opening"]
    for name, salt in case["salts"].items():
        assert open_field(opening, name)[1].hex() == salt


def test_a_commitment_can_be_checked_with_sha_256_alone() -> None:
    """What a verifier elsewhere does: SHA-256 over the salt and the canonical bytes of the value."""
    entry, opening = sealed(fields={"tenant": "acme"})
    value, salt = open_field(opening, "tenant")

    assert json.loads(entry)["fields"]["tenant"] == hashlib.sha256(salt + b'"acme"').hexdigest()
    assert value == "acme"
    assert len(salt) == SALT_BYTES


NAMES = st.from_regex(r"[a-z][a-z0-9_.]{0,31}", fullmatch=True)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)


@given(st.dictionaries(NAMES, PLAIN | st.lists(PLAIN, max_size=3), max_size=8), st.binary(min_size=32, max_size=32))
def test_every_field_opens_and_nothing_else_passes(fields: dict[str, Any], secret: bytes) -> None:
    """Any fields: each opens to its value, another value or salt does not match, and the entry reads back."""
    entry, opening = sealed(fields=fields, secret=secret)

    assert set(read_entry(entry).fields) == set(fields)
    for name, expected in fields.items():
        value, salt = open_field(opening, name)
        check_field(entry, name, value, salt)
        assert value == expected
        with pytest.raises(InvalidInput):
            check_field(entry, name, [value], salt)
        with pytest.raises(InvalidInput):
            check_field(entry, name, value, bytes(16))


def test_each_field_has_a_salt_of_its_own() -> None:
    """Equal values look different, also under names that could be mistaken, and one salt tells nothing of another."""
    entry, opening = sealed(fields={"a": "same", "b": "same", "findings": []}, findings=[])
    read = read_entry(entry)
    salts = {open_field(opening, name)[1] for name in ("a", "b", "findings")} | {open_findings(opening)[1]}

    assert len({*read.fields.values(), read.findings}) == 4
    assert len(salts) == 4


def test_another_secret_gives_other_commitments() -> None:
    """The same decision recorded twice cannot be recognised by its commitments."""
    first, second = (read_entry(sealed(secret=secret)[0]) for secret in (SECRET, bytes(32)))

    assert not set(first.fields.values()) & set(second.fields.values())
    assert first.findings != second.findings


def test_no_private_text_is_in_the_entry() -> None:
    """Values, findings and the secret are in the opening alone."""
    findings = [{"rule": "demo.rule.1", "path": "/messages/0"}]
    entry, opening = sealed(fields={"principal": "alice@example.org"}, findings=findings)

    for private in (b"alice@example.org", b"demo.rule.1", SECRET.hex().encode()):
        assert private not in entry
        assert private in opening


def test_findings_open_and_their_scores_are_millionths() -> None:
    """A finding as the detector made it: its float score becomes an integer, and the list opens as a whole."""
    finding = Finding(rule="demo.rule.1", category=Category.INJECTION, score=0.97, surface=Surface.PROMPT, span=(3, 9))
    entry, opening = sealed(findings=[msgspec.to_builtins(finding)])
    findings, salt = open_findings(opening)

    check_findings(entry, findings, salt)
    assert findings[0]["score"] == 970_000
    assert findings[0]["span"] == [3, 9]
    with pytest.raises(InvalidInput):
        check_findings(entry, [], salt)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_salt_of_another_length_is_refused(length: int) -> None:
    """Bytes cannot move between salt and value."""
    with pytest.raises(InvalidInput, match="salt"):
        check_field(sealed()[0], "tenant", "acme", bytes(length))


def test_an_entry_over_4_kib_is_refused_not_cut() -> None:
    """As many fields as fit pass; one more raises."""
    fits = 0
    while True:
        fields = {f"f{number:030}": number for number in range(fits + 1)}
        try:
            entry, _ = sealed(fields=fields)
        except LimitExceeded:
            break
        fits += 1

    assert len(entry) <= MAX_ENTRY_BYTES < len(entry) + 104
    assert fits > 20


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": bytes(31)},
        {"time": -1},
        {"time": MAX_INTEGER + 1},
        {"score": 1_000_001},
        {"score": -1},
        {"action": "Block!"},
        {"node": "line\nbreak"},
        {"event": "\u00e9"},
        {"subject": "x" * 129},
        {"model": "m" * 129},
        {"model": "\ud800"},
        {"fields": {"Upper": 1}},
        {"fields": {"x" * 33: 1}},
        {"fields": {"a": 1.5}},
        {"findings": [{"score": float("nan")}]},
        {"findings": [{"other": 1.5}]},
        {"type": "decision.request"},
    ],
)
def test_what_does_not_fit_the_format_is_refused(changes: dict[str, Any]) -> None:
    """Each member has its bounds, and none is bent to fit."""
    with pytest.raises(InvalidInput):
        sealed(**changes)


def test_a_model_name_may_use_all_of_its_128_code_points() -> None:
    """Counted in code points, whatever the script."""
    name = "\u6a21" * 128

    assert read_entry(sealed(model=name)[0]).model == name


def test_an_entry_reads_back_as_it_was_written() -> None:
    """All members, typed."""
    read = read_entry(sealed()[0])

    assert read == Entry(
        action="block",
        event="01997fb0-1234-7abc-8def-0123456789ab",
        fields=read.fields,
        findings=read.findings,
        model="gpt-x",
        node="local",
        policy="ab" * 32,
        score=970_000,
        subject="5d41402abc4b2a76b9719d911017c592",
        time=1_790_000_000_000_000,
        type=EntryType.DECISION_REQUEST,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": "1"},
        {"type": "decision.unheard"},
        {"extra": 1},
        {"findings": "AB" * 32},
        {"fields": {"a": "zz"}},
        {"fields": {"A": "ab" * 32}},
        {"score": 0.5},
        {"time": None},
        {"model": "m" * 129},
    ],
)
def test_an_entry_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    """Also when its bytes are canonical JSON."""
    value = json.loads(sealed()[0]) | change

    with pytest.raises(InvalidInput):
        read_entry(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def test_another_writing_of_the_same_entry_is_refused() -> None:
    """One entry, one sequence of bytes, one leaf hash. A missing version is another writing too."""
    entry, _ = sealed()
    value = json.loads(entry)

    for other in (
        json.dumps(value).encode(),
        entry + b"\n",
        entry.replace(b'"gpt-x"', b'"gpt\\u002dx"'),
        entry.replace(b',"v":1', b""),
        entry.replace(b'"v":1', b'"v":1,"v":1'),
    ):
        assert other != entry
        with pytest.raises(InvalidInput):
            read_entry(other)


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"secret": "00"}, {"secret": "Z" * 64}, {"fields": []}, {"findings": {}}, {"more": 1}],
)
def test_an_opening_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    """Nothing is disclosed from what is no opening."""
    opening = canonical(parse(sealed()[1]) | change)

    with pytest.raises(InvalidInput):
        open_field(opening, "tenant")


def test_a_field_that_is_not_there_is_said_to_be_missing() -> None:
    """In the opening and in the entry."""
    entry, opening = sealed()

    with pytest.raises(InvalidInput, match="no field"):
        open_field(opening, "other")
    with pytest.raises(InvalidInput, match="no field"):
        check_field(entry, "other", 1, bytes(16))


def test_every_type_of_the_contract_is_in_the_registry() -> None:
    """The closed lists are whole, and each open family has members."""
    values = {kind.value for kind in EntryType}

    assert values >= {
        "decision.request", "decision.response", "decision.tool", "model.seal", "model.scan", "model.load",
        "exchange.out", "exchange.in", "exchange.activate", "exchange.sighting",
        "node.start", "node.stop", "node.selftest", "evidence.posted",
    }  # fmt: skip
    families = {value.partition(".")[0] for value in values}
    assert families == {"decision", "policy", "key", "model", "exchange", "campaign", "hold", "incident", "ledger",
                        "node", "evidence"}  # fmt: skip
