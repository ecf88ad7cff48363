# SPDX-License-Identifier: Apache-2.0
"""A key is shown once, kept as a hash, and nothing but the whole key opens the door."""

import hashlib
import hmac
import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, Forbidden, Unauthorized
from shieldwall.gateway.keys import ROLES, Keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "api-keys.json"


@pytest.fixture
def keys(path: Path) -> Keys:
    return Keys(path)


def test_a_created_key_is_known(keys: Keys) -> None:
    """The key that was shown is the one that is recognised, with name, role and tenant."""
    shown = keys.create("ann", role="auditor", tenant="acme")

    known = keys.of(shown)

    assert re.fullmatch(r"sw-[0-9a-f]{12}-[0-9a-f]{64}", shown)
    assert (known.name, known.role, known.tenant) == ("ann", "auditor", "acme")
    assert len(keys) == 1


def test_keys_outlive_the_process(path: Path) -> None:
    """What one process made, the next one knows; also what a second one added."""
    first = Keys(path).create("ann")
    second = Keys(path).create("bob", role="viewer")

    again = Keys(path)

    assert [again.of(each).name for each in (first, second)] == ["ann", "bob"]


def test_only_the_hash_is_kept(keys: Keys, path: Path) -> None:
    """Neither the key nor its secret is anywhere in the directory; their digest is."""
    shown = keys.create("ann")
    secret = shown.split("-")[2]

    kept = b"".join(each.read_bytes() for each in path.parent.iterdir())

    assert secret.encode() not in kept
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept
    assert secret not in repr(keys.of(shown))


def test_the_file_is_for_its_owner(keys: Keys, path: Path) -> None:
    """0600 in a directory of 0700, after the first key and after the second."""
    for name in ("ann", "bob"):
        keys.create(name)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_wrong_keys_are_refused(keys: Keys) -> None:
    """Another secret, another id, a piece of the key, the key and more, other cases, other alphabets: nothing opens."""
    shown = keys.create("ann")
    other = keys.create("bob")
    prefix, public, secret = shown.split("-")
    wrong = [
        "",
        "-",
        "--",
        "sw--",
        f"sw-{public}-",
        f"sw-{public}",
        f"sw--{secret}",
        f"{public}-{secret}",
        secret,
        shown[:-1],
        shown + "0",
        shown.upper(),
        shown.replace("sw-", "SW-"),
        f"xx-{public}-{secret}",
        f"sw-{public}-{other.split('-')[2]}",
        f"sw-{public}-{'0' * 64}",
        f"sw-{public}-{hashlib.sha256(secret.encode()).hexdigest()}",
        f"sw-{'0' * 12}-{secret}",
        f"sw-{public}-{secret[:-1]}é",
        f"sw-{public}-{secret[:-1]}\ud800",
        f"sw-{public}-ключ",
        f" {shown}",
        f"{shown}\n",
        f"sw-{public}-{secret}-",
    ]

    for presented in wrong:
        with pytest.raises(Unauthorized) as caught:
            keys.of(presented)
        assert str(caught.value) == "the key is not known here"
    assert prefix == "sw"


def test_an_error_never_repeats_the_key(keys: Keys) -> None:
    """A mistyped key is nearly a key: it is in no message and no hint."""
    shown = keys.create("ann")

    with pytest.raises(Unauthorized) as caught:
        keys.of(shown[:-1])

    assert shown[3:20] not in f"{caught.value}{caught.value.hint}"


@given(st.text())
def test_no_other_text_opens(tmp_path_factory: pytest.TempPathFactory, presented: str) -> None:
    """Whatever is presented, in whatever alphabet, is refused with an error of ours."""
    keys = Keys(tmp_path_factory.getbasetemp() / "no-such-file")

    with pytest.raises(Unauthorized):
        keys.of(presented)


def test_an_unknown_id_is_compared_like_a_known_one(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """One comparison of two digests whether the id exists or not: the answer's time tells nothing."""
    shown = keys.create("ann")
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr("shieldwall.gateway.keys.hmac.compare_digest", watched)
    for presented in (shown[:-1], f"sw-{'0' * 12}-{'0' * 64}", "nonsense", ""):
        with pytest.raises(Unauthorized):
            keys.of(presented)

    assert compared == [(32, 32)] * 4


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_its_own_doors(keys: Keys, role: str) -> None:
    """A key is let in where its role is asked for, and told which roles would be where it is not."""
    headers = {b"authorization": b"Bearer " + keys.create("ann", role=role).encode()}
    others = [each for each in ROLES if each != role]

    assert keys.authenticate(headers, role, others[0]).role == role
    with pytest.raises(Forbidden) as caught:
        keys.authenticate(headers, *others)
    assert caught.value.hint == f"use a key of role {' or '.join(others)}"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (b"authorization", b"Bearer ", b""),
        (b"authorization", b"bearer ", b""),
        (b"authorization", b"BEARER   ", b"  "),
        (b"x-api-key", b"", b""),
        (b"x-api-key", b" ", b" "),
    ],
)
def test_both_headers_carry_a_key(keys: Keys, name: bytes, before: bytes, after: bytes) -> None:
    """`Authorization: Bearer` as the openai client sends it, `x-api-key` as the anthropic one does."""
    shown = keys.create("ann").encode()

    assert keys.authenticate({name: before + shown + after}, "user").name == "ann"


def test_an_authorization_of_another_kind_leaves_the_other_header(keys: Keys) -> None:
    """A proxy's `Basic` is not ours to read."""
    shown = keys.create("ann").encode()

    known = keys.authenticate({b"authorization": b"Basic YTpi", b"x-api-key": shown}, "user")

    assert known.name == "ann"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic YTpi"},
        {b"x-api-key": b"  "},
        {b"x-api-key": b"\xff\xfe"},
        {b"authorization": b"Bearer \xd0\xba\xd0\xbb\xd1\x8e\xd1\x87"},
        {b"authorization": b"Bearer sw-a-b", b"x-api-key": b"sw-a-b"},
    ],
)
def test_without_a_key_nobody_is_let_in(keys: Keys, headers: dict[bytes, bytes]) -> None:
    """No header, an empty one, one of another kind, one that is not ASCII."""
    keys.create("ann")

    with pytest.raises(Unauthorized):
        keys.authenticate(headers, *ROLES)


def test_a_wrong_bearer_is_not_saved_by_the_other_header(keys: Keys) -> None:
    """One request, one key: the one that was presented first is the one that counts."""
    shown = keys.create("ann").encode()

    with pytest.raises(Unauthorized):
        keys.authenticate({b"authorization": b"Bearer sw-a-b", b"x-api-key": shown}, "user")


@pytest.mark.parametrize("name", ["", " ", "-a", "a b", "a\n", "a" * 65, "é", "a/b", "a\x00", "\u202ea", '"'])
def test_an_unusable_name_is_refused(keys: Keys, path: Path, name: str) -> None:
    """Names stand in records and on pages: letters, digits and a few signs, 64 at most."""
    with pytest.raises(ConfigError):
        keys.create(name)

    assert not path.exists()


def test_a_taken_name_and_an_unknown_role_are_refused(keys: Keys) -> None:
    """The first key stays as it was."""
    shown = keys.create("ann")

    with pytest.raises(ConfigError, match="there is a key named ann already"):
        keys.create("ann")
    with pytest.raises(ConfigError, match="roles are user, operator, approver, auditor, viewer"):
        keys.create("bob", role="emperor")

    assert keys.of(shown).name == "ann"
    assert len(keys) == 1


@pytest.mark.parametrize("step", ["os.fsync", "Path.replace"])
def test_a_crash_while_writing_leaves_the_old_keys(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Between the first byte written and the rename nothing is lost and nothing half made is believed."""
    shown = Keys(path).create("ann")
    before = path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError(5, "the power went out")

    with monkeypatch.context() as patch:
        patch.setattr(f"shieldwall.gateway.keys.{step}", crash)
        running = Keys(path)
        with pytest.raises(OSError, match="the power went out"):
            running.create("bob")
        in_memory = len(running)

    assert path.read_bytes() == before
    assert in_memory == 1
    assert Keys(path).of(shown).name == "ann"
    later = Keys(path).create("bob")
    assert Keys(path).of(later).name == "bob"


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


KEY = {"id": "a", "name": "ann", "role": "user", "tenant": "default", "sha256": "00" * 32}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"\xff",
        b"\x00" * 64,
        json.dumps({"v": 1, "keys": [KEY]}).encode()[:-3],
        json.dumps({"v": 2, "keys": [KEY]}).encode(),
        json.dumps({"v": 1, "keys": [KEY], "more": 1}).encode(),
        json.dumps({"v": 1, "keys": [{**KEY, "sha256": "zz" * 32}]}).encode(),
        json.dumps({"v": 1, "keys": [{**KEY, "sha256": "00"}]}).encode(),
        json.dumps({"v": 1, "keys": [{"id": "a"}]}).encode(),
        b'{"v": 1, "keys": ' + b"[" * 100_000,
        b'{"v": 1, "keys": [{"x": ' + b"[" * 100_000,
    ],
)
def test_a_broken_file_is_named(path: Path, data: bytes) -> None:
    """Cut off, of another version, or of another shape: a ConfigError that names the file and what to do."""
    _written(path, data)

    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        Keys(path)

    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    """A directory in its place, say."""
    path.mkdir(parents=True)

    with pytest.raises(ConfigError, match="cannot be read"):
        Keys(path)


def test_a_sound_file_is_read(path: Path) -> None:
    """The broken ones above are refused for what is broken in them."""
    assert len(Keys(_written(path, json.dumps({"v": 1, "keys": [KEY]}).encode()))) == 1
