# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is trusted when a listed log signed it and the quorum of the policy cosigned it; else never."""

import json
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput, PolicyError
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.cosignature import cosign, sign_checkpoint, sign_subtree
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey
from shieldwall.ledger.note import Signature, parse_note, write_note
from shieldwall.ledger.trust import (
    MAX_LINES_OF_A_KIND,
    MAX_POLICY_BYTES,
    Group,
    Policy,
    is_quorum,
    parse_policy,
    verify_checkpoint,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
NOW = 1_750_000_000


def make(name: str, kind: KeyType) -> SigningKey:
    """A key that is the same in every run."""
    return SigningKey(name, kind, f"{name} {kind}".encode().ljust(32, b".")[:32])


LOG = make("example.org/log", KeyType.NOTE)
LOG_PQ = make("example.org/log", KeyType.SUBTREE)
OTHER_LOG = make("example.org/other", KeyType.NOTE)
NAMES = ("X1", "X2", "X3", "Y1", "Y2", "Y3")
WITNESSES = {
    name: make(f"{name.lower()}.example", KeyType.SUBTREE if name == "Y1" else KeyType.COSIGNATURE) for name in NAMES
}
CHECKPOINT = Checkpoint("example.org/log", 8, bytes(range(32)))

TWO_LEVELS = (
    f"# a policy on two levels\n\n \tlog {LOG.key} https://log.example/\n"
    + "".join(f"witness {name} {key.key}\n" for name, key in WITNESSES.items())
    + "group X-witnesses 2 X1 X2 X3\ngroup\tY-witnesses  any Y1 Y2 Y3 \n"
    + "group X-and-Y all X-witnesses Y-witnesses\n  # said once\nquorum X-and-Y\n"
)


def policy_of(*lines: str, logs: tuple[SigningKey, ...] = (LOG,)) -> Policy:
    """A policy with all witnesses and these further lines."""
    head = [f"log {key.key}" for key in logs] + [f"witness {name} {key.key}" for name, key in WITNESSES.items()]
    return parse_policy("".join(f"{line}\n" for line in (*head, *lines)).encode())


def note_of(*names: str, time: int = NOW, logs: tuple[SigningKey, ...] = (LOG,)) -> bytes:
    """The checkpoint, cosigned by these."""
    note = parse_note(sign_checkpoint(CHECKPOINT, logs, NOW))
    return write_note(note.text, [*note.signatures, *(cosign(note.text, WITNESSES[name], time) for name in names)])


def test_the_policy_of_the_specification() -> None:
    """Two of X and one of Y: exactly the sets of witnesses that are both are enough."""
    policy = parse_policy(TWO_LEVELS.encode())

    assert [each.name for each in policy.witnesses] == [name.encode() for name in NAMES]
    assert policy.groups[1] == Group(b"Y-witnesses", 1, (b"Y1", b"Y2", b"Y3"))
    assert (policy.logs[0].key, policy.logs[0].url, policy.quorum) == (LOG.key, "https://log.example/", b"X-and-Y")
    for chosen in chain.from_iterable(combinations(NAMES, count) for count in range(7)):
        enough = sum(name[0] == "X" for name in chosen) >= 2 and any(name[0] == "Y" for name in chosen)
        assert is_quorum(policy, {name.encode() for name in chosen}) is enough


def test_a_witnessed_checkpoint_is_trusted() -> None:
    """Who signed, who cosigned and when is told."""
    trusted = verify_checkpoint(parse_policy(TWO_LEVELS.encode()), note_of("X1", "X3", "Y1"))

    assert trusted.checkpoint == CHECKPOINT
    assert [each.key for each in trusted.log] == [LOG.key]
    assert [(known.name, time) for known, time in trusted.witnesses] == [(b"X1", NOW), (b"X3", NOW), (b"Y1", NOW)]


@pytest.mark.parametrize("names", [(), ("X1", "Y1"), ("X1", "X2", "X3"), ("Y1", "Y2", "Y3"), ("X1", "X1", "Y1")])
def test_too_few_witnesses_are_not_enough(names: tuple[str, ...]) -> None:
    """Signing twice does not count twice."""
    with pytest.raises(NotVerified, match=f"not met: {len(set(names))} of 6"):
        verify_checkpoint(parse_policy(TWO_LEVELS.encode()), note_of(*names))


def test_the_cosigned_vector_is_trusted_under_a_policy() -> None:
    """The generated vector, under the name it was signed for (see `test_ledger_keys`)."""
    case = json.loads(json.dumps(VECTORS["cosigned"][0]).replace("log.example/shieldwall", "log.example/testudo"))
    lines = [f"log {case['log_vkey']}"]
    lines += [f"witness w{number} {vkey}" for number, vkey in enumerate(case["witness_vkeys"])]
    policy = parse_policy("\n".join([*lines, "group both all w0 w1", "quorum both", ""]).encode())

    trusted = verify_checkpoint(policy, case["checkpoint"].encode())

    assert [time for _, time in trusted.witnesses] == case["timestamps"]


def test_one_failing_line_of_a_witness_refuses_the_checkpoint() -> None:
    """Although there are enough without it: somebody has tampered with it."""
    note = parse_note(note_of("X1", "X2", "Y1"))
    bad = Signature(WITNESSES["X3"].key.name, WITNESSES["X3"].key.id, bytes(72))
    data = write_note(note.text, [*note.signatures, bad])

    with pytest.raises(NotVerified, match="fails"):
        verify_checkpoint(parse_policy(TWO_LEVELS.encode()), data)


def test_witnesses_alone_are_no_log() -> None:
    """Nor is another listed log, nor a log key that signs under another's origin."""
    full = parse_note(note_of(*NAMES))
    policy = policy_of("quorum X1", logs=(LOG, OTHER_LOG))
    foreign = Checkpoint("example.org/log", 8, bytes(32)).text
    signed = Signature(OTHER_LOG.key.name, OTHER_LOG.key.id, OTHER_LOG.sign(foreign))

    with pytest.raises(NotVerified, match="no trusted log"):
        verify_checkpoint(policy, write_note(full.text, full.signatures[1:]))
    with pytest.raises(NotVerified, match="no trusted log of this origin"):
        verify_checkpoint(policy, write_note(foreign, [signed, cosign(foreign, WITNESSES["X1"], NOW)]))


def test_each_key_of_a_log_is_enough() -> None:
    """Ed25519 or ML-DSA-44, whichever the policy lists."""
    data = note_of("X1", logs=(LOG, LOG_PQ))
    for logs in ((LOG,), (LOG_PQ,), (LOG, LOG_PQ)):
        trusted = verify_checkpoint(policy_of("quorum X1", logs=logs), data)
        assert [each.key for each in trusted.log] == [key.key for key in logs]


def test_a_cosignature_without_a_time_does_not_count() -> None:
    """It holds, but does not say that its witness has seen nothing later."""
    key = WITNESSES["Y1"]
    note = parse_note(note_of("X1"))
    line = sign_subtree(key, origin=CHECKPOINT.origin, start=0, end=8, root=CHECKPOINT.root)
    data = write_note(note.text, [*note.signatures, line])

    assert line.data.startswith(bytes(8))
    with pytest.raises(NotVerified, match="1 of 6"):
        verify_checkpoint(policy_of("quorum Y1"), data)
    assert verify_checkpoint(policy_of("quorum X1"), data).checkpoint == CHECKPOINT


def test_a_policy_without_witnesses_or_without_logs() -> None:
    """`quorum none` asks for no cosignature; without a log, the caller says which."""
    bare = parse_policy(b"quorum none\n")

    assert is_quorum(bare, set())
    assert verify_checkpoint(bare, note_of(), logs=[LOG.key]).witnesses == ()
    with pytest.raises(NotVerified, match="no log is trusted"):
        verify_checkpoint(bare, note_of())
    with pytest.raises(NotVerified, match="no known key"):
        verify_checkpoint(bare, note_of(), logs=[OTHER_LOG.key])


def test_the_caller_may_narrow_the_logs_but_not_add_to_them() -> None:
    """What the policy does not list, it does not trust."""
    policy = policy_of("quorum none", logs=(LOG, OTHER_LOG))

    assert verify_checkpoint(policy, note_of(), logs=[LOG.key]).log[0].key == LOG.key
    with pytest.raises(NotVerified, match="no known key"):
        verify_checkpoint(policy, note_of(), logs=[OTHER_LOG.key])
    with pytest.raises(NotVerified, match="does not list this log"):
        verify_checkpoint(policy, note_of(logs=(LOG_PQ,)), logs=[LOG_PQ.key])


def test_a_log_is_not_its_own_witness() -> None:
    """One signature would count for both."""
    policy = parse_policy(f"witness w {LOG_PQ.key}\nquorum w\n".encode())

    with pytest.raises(ConfigError, match="is a witness of the trust policy"):
        verify_checkpoint(policy, note_of(logs=(LOG_PQ,)), logs=[LOG_PQ.key])
    with pytest.raises(PolicyError, match=r"line 2 .* in a line above"):
        parse_policy(f"log {LOG_PQ.key}\nwitness w {LOG_PQ.key}\nquorum w\n".encode())


def test_a_quorum_of_one_witness_needs_no_group() -> None:
    """And names that the policy does not know count for nothing."""
    policy = policy_of("quorum X1")

    assert is_quorum(policy, {b"X1"})
    assert not is_quorum(policy, {b"X2", b"nobody"})
    assert not is_quorum(policy_of("group g any X1", "quorum g"), {b"g"})


def test_names_are_bytes() -> None:
    """A K and a Kelvin sign differ, and what is not UTF-8 is a name too; so may comments and URLs be."""
    text = b"# \xff\nwitness K %b\nwitness \xe2\x84\xaa %b\nwitness \xff %b http://\xff/\n"
    text += b"group g 2 K \xe2\x84\xaa \xff\nquorum g\n"
    policy = parse_policy(text % tuple(str(WITNESSES[name].key).encode() for name in ("X1", "X2", "X3")))

    assert [each.name for each in policy.witnesses] == [b"K", "\u212a".encode(), b"\xff"]
    assert policy.witnesses[2].url == "http://\\xff/"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "no quorum"),
        ("quorum X1\nquorum X1", "second quorum"),
        ("quorum none\nquorum X1", "second quorum"),
        ("quorum nobody", "not defined"),
        ("quorum", "words"),
        ("quorum X1 X2", "words"),
        ("quorum g\ngroup g any X1", "not defined"),
        ("Quorum X1", "none of log, witness, group, quorum"),
        ("quorum\u00a0X1", "none of log"),
        ("quorum\rX1", "control character"),
        ("quorum X1\x0b", "control character"),
        ("quorum X1\x7f", "control character"),
        ("# \x00\nquorum X1", "control character"),
        ("group g any\nquorum g", "words"),
        ("group g\nquorum X1", "words"),
        ("group g some X1\nquorum g", "any, all, or a number"),
        ("group g 0 X1\nquorum g", "any, all, or a number"),
        ("group g 2 X1\nquorum g", "any, all, or a number"),
        ("group g -1 X1\nquorum g", "any, all, or a number"),
        ("group g +1 X1\nquorum g", "any, all, or a number"),
        ("group g 01 X1\nquorum g", "any, all, or a number"),
        ("group g 99999999999999999999 X1\nquorum g", "any, all, or a number"),
        ("group g any X1 X1\nquorum g", "counts once"),
        ("group g any X1\ngroup h any X1\nquorum h", "counts once"),
        ("group g any X1\ngroup h any g\ngroup i any g\nquorum i", "counts once"),
        ("group g any none\nquorum g", "no member"),
        ("group none any X1\nquorum none", "defined already"),
        ("group X1 any X2\nquorum X1", "defined already"),
        ("group g any g\nquorum g", "not defined"),
        ("group g any h\ngroup h any X1\nquorum g", "not defined"),
        (f"witness X1 {make('z', KeyType.COSIGNATURE).key}\nquorum X1", "defined already"),
        (f"witness none {make('z', KeyType.COSIGNATURE).key}\nquorum none", "defined already"),
        (f"witness z {WITNESSES['X1'].key}\nquorum X1", "in a line above"),
        (f"log {LOG.key}\nquorum X1", "in a line above"),
        (f"log {SigningKey('y', KeyType.NOTE, b'example.org/log 1'.ljust(32, b'.')).key}\nquorum X1", "line above"),
        (f"witness z {OTHER_LOG.key}\nquorum X1", "type 04 and 06, not 01"),
        (f"log {make('z', KeyType.COSIGNATURE).key}\nquorum X1", "type 01 and 06, not 04"),
        ("log\nquorum X1", "words"),
        ("log a b c\nquorum X1", "words"),
        ("witness z\nquorum X1", "words"),
        ("witness z a b c\nquorum X1", "words"),
        ("log example.org/log+00000000\nquorum X1", "name.id.key"),
        (f"log {str(OTHER_LOG.key).replace('other', 'oth')}\nquorum X1", "does not fit its name"),
    ],
)
def test_a_malformed_policy_is_refused(lines: str, reason: str) -> None:
    """One fault each; the line is named where there is one."""
    with pytest.raises(PolicyError, match=reason) as caught:
        policy_of(*lines.split("\n"))
    assert reason == "no quorum" or "line " in str(caught.value)


def test_a_line_is_named_by_its_number() -> None:
    """Comments and empty lines count."""
    with pytest.raises(PolicyError, match=r"^line 3 of the trust policy: "):
        parse_policy(b"# one\n\nquorum X\n")
    with pytest.raises(PolicyError, match=r"line 1 .* not UTF-8"):
        parse_policy(b"log \xff+\n")


def test_a_policy_that_was_cut_off_is_refused() -> None:
    """`quorum X1` could be the beginning of the name of a group."""
    for data in (b"", TWO_LEVELS.encode()[:-1], TWO_LEVELS.encode()[:-6]):
        with pytest.raises(PolicyError, match="line end"):
            parse_policy(data)


def test_limits() -> None:
    """The 32 of each that the format asks for, a deep nest, and the bounds of ours."""
    keys = [SigningKey(f"w{number}.example", KeyType.COSIGNATURE, bytes([number] * 32)) for number in range(32)]
    logs = [SigningKey(f"l{number}.example", KeyType.NOTE, bytes([99 + number] * 32)) for number in range(32)]
    lines = [f"log {key.key}" for key in logs] + [f"witness w{at} {key.key}" for at, key in enumerate(keys)]
    lines += ["group g0 any w0", *(f"group g{at} all g{at - 1} w{at}" for at in range(1, 32))]
    policy = parse_policy("\n".join([*lines, "quorum g31", ""]).encode())
    assert is_quorum(policy, {f"w{at}".encode() for at in range(32)})
    assert not is_quorum(policy, {f"w{at}".encode() for at in range(1, 32)})

    deep = ["group g0 any w0", *(f"group g{at} all g{at - 1}" for at in range(1, MAX_LINES_OF_A_KIND))]
    deep_policy = parse_policy("\n".join([*lines[:64], *deep, f"quorum g{MAX_LINES_OF_A_KIND - 1}", ""]).encode())
    assert is_quorum(deep_policy, {b"w0"})
    with pytest.raises(PolicyError, match="over 256 lines"):
        parse_policy("\n".join([*lines[:64], *deep, "group more any w1", "quorum g1", ""]).encode())
    with pytest.raises(PolicyError, match="bytes"):
        parse_policy(b"#" * MAX_POLICY_BYTES + b"\n")


@st.composite
def policies(draw: st.DrawFn) -> str:
    """Lines of groups over the witnesses, each name used once, and a quorum among all of them."""
    free, lines = [*NAMES], []
    for number in range(draw(st.integers(0, 4))):
        members = draw(st.lists(st.sampled_from(free), min_size=1, max_size=4, unique=True))
        least = draw(st.sampled_from(["any", "all", *map(str, range(1, len(members) + 1))]))
        free = [name for name in free if name not in members] + [f"g{number}"]
        lines.append(f"group g{number} {least} {' '.join(members)}")
    groups = [f"g{number}" for number in range(len(lines))]
    lines.append(f"quorum {draw(st.sampled_from(['none', *NAMES, *groups]))}")
    return "\n".join(lines)


def naive(lines: str, chosen: set[str]) -> bool:
    """The same by recursion from the quorum down, over the words of the text."""
    groups = {words[1]: words[2:] for words in (line.split() for line in lines.split("\n")) if words[0] == "group"}

    def met(name: str) -> bool:
        if name not in groups:
            return name == "none" or name in chosen
        least, *members = groups[name]
        count = {"any": 1, "all": len(members)}.get(least) or int(least)
        return sum(map(met, members)) >= count

    return met(lines.rsplit(" ", 1)[1])


@given(policies(), st.sets(st.sampled_from(NAMES)))
@settings(max_examples=150, deadline=None)
def test_a_quorum_is_that_of_the_naive_reading(lines: str, chosen: set[str]) -> None:
    """For any groups and any witnesses."""
    assert is_quorum(policy_of(*lines.split("\n")), {name.encode() for name in chosen}) is naive(lines, chosen)


@given(st.sets(st.sampled_from(NAMES)))
@settings(max_examples=20, deadline=None)
def test_one_more_witness_never_hurts(chosen: set[str]) -> None:
    """A quorum that is met stays met."""
    policy = parse_policy(TWO_LEVELS.encode())
    names = {name.encode() for name in chosen}
    if is_quorum(policy, names):
        assert all(is_quorum(policy, names | {name.encode()}) for name in NAMES)


WORDS = st.sampled_from([b"log", b"witness", b"group", b"quorum", b"none", b"any", b"1", b"X", str(LOG.key).encode()])


@given(
    st.binary(max_size=80) | st.lists(WORDS | st.just(b"\n"), max_size=12).map(lambda words: b" ".join(words) + b"\n")
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_policy_or_an_error_of_ours(data: bytes) -> None:
    """And a policy that was read does not trust what is no note."""
    try:
        policy = parse_policy(data)
    except PolicyError:
        return
    with pytest.raises((InvalidInput, ConfigError)):
        verify_checkpoint(policy, data)
