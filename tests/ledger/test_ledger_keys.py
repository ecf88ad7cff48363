# SPDX-License-Identifier: Apache-2.0
"""A key is its name, its type and its material together; anything else is another key, or none."""

import copy
import hashlib
import json
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.ledger.keys import (
    KeyType,
    NotVerified,
    SigningKey,
    VKey,
    check_keys,
    check_raw,
    decode_base64,
    encode_base64,
    encode_key,
    parse_key,
    parse_vkey,
    read_key_file,
    write_key_file,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
PUBLISHED: list[dict[str, Any]] = [
    *VECTORS["vkeys"],
    *({"type": 1, "vkey": each["vkey"]} for each in VECTORS["notes"] + VECTORS["checkpoints"][:1]),
    {"type": 1, "vkey": VECTORS["witness_add_checkpoint"]["log_vkey"]},
    {"type": 4, "vkey": VECTORS["cosigned"][0]["witness_vkeys"][0]},
    {"type": 6, "vkey": VECTORS["cosigned"][0]["witness_vkeys"][1]},
]
SEED = bytes(range(32))
NAMES = st.text(st.characters(blacklist_characters="+", blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: not any(each.isspace() or each < " " for each in name)
)


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["vkey"][:20])
def test_a_published_key_is_read_and_written_as_it_was(case: dict[str, Any]) -> None:
    """Three types; the id is that of the publisher."""
    key = parse_vkey(case["vkey"])

    assert key.type == case["type"]
    assert str(key) == case["vkey"]


def test_a_key_under_another_name_is_refused() -> None:
    """One vector was renamed after it was made, from `testudo` to `shieldwall`, and its id tells."""
    renamed = VECTORS["cosigned"][0]["log_vkey"]

    with pytest.raises(InvalidInput, match="does not fit its name"):
        parse_vkey(renamed)
    assert parse_vkey(renamed.replace("shieldwall", "testudo")).type is KeyType.NOTE


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        (b"\x02" + bytes(91), "type 02 are not supported"),
        (b"\x05" + bytes(32), "type 05"),
        (b"\xffPKIX-RSA-PKCS#1v1.5" + bytes(256), "type ff"),
        (b"\x01" + bytes(31), "has 32 bytes, not 31"),
        (b"\x04", "has 32 bytes, not 0"),
        (b"\x06" + bytes(32), "has 1312 bytes, not 32"),
    ],
)
def test_a_type_or_a_length_that_is_not_ours_is_named(material: bytes, reason: str) -> None:
    """The id is right in each case: it is the type or the length that is refused."""
    key_id = hashlib.sha256(b"example.org/x\n" + material).hexdigest()[:8]

    with pytest.raises(InvalidInput, match=reason):
        parse_vkey(f"example.org/x+{key_id}+{encode_base64(material)}")


def _spoilt() -> list[str]:
    good = VECTORS["notes"][0]["vkey"]
    name, key_id, material = good.split("+", 2)
    return [
        "",
        "+",
        "++",
        name,
        f"{name}+{key_id}",
        f"+{key_id}+{material}",
        f"{name} x+{key_id}+{material}",
        f"{name}\u00a0+{key_id}+{material}",
        f"{name}\ud800+{key_id}+{material}",
        f"{name}+{key_id.upper()}+{material}",
        f"{name}+0{key_id}+{material}",
        f"{name}+{key_id[1:]}+{material}",
        f"{name}+{key_id[:-1]}b+{material}",
        f"{name}+ {key_id[1:]}+{material}",
        f"{name}+{key_id}+",
        f"{name}+{key_id}+{material}=",
        f"{name}+{key_id}+{material[:-1]}",
        f"{name}+{key_id}+{material}\n",
        f"{name}+{key_id}+{material[:-1]}-",
        f"{name}+{key_id}+{material[:-1]}l",
    ]


@pytest.mark.parametrize("text", _spoilt())
def test_a_spoilt_verifier_key_is_refused(text: str) -> None:
    """One fault each."""
    with pytest.raises(InvalidInput):
        parse_vkey(text)


def test_stray_bits_after_the_base64_of_a_key_are_refused() -> None:
    """33 bytes leave none; the 1313 of ML-DSA-44 leave four bits that have to be zero."""
    good = VECTORS["vkeys"][0]["vkey"]
    assert good.endswith("4=")

    with pytest.raises(InvalidInput, match="not base64"):
        parse_vkey(good[:-2] + "5=")


@pytest.mark.parametrize("kind", KeyType)
def test_a_private_key_comes_back_from_its_text(kind: KeyType) -> None:
    """And signs what its public key verifies."""
    key = parse_key(encode_key(SigningKey("example.org/log", kind, SEED)))

    assert key.key == SigningKey("example.org/log", kind, SEED).key
    assert parse_vkey(str(key.key)) == key.key
    check_raw(key.key, b"message", key.sign(b"message"))
    for signature in (b"", key.sign(b"another"), key.sign(b"message") + b"\0", bytes(64)):
        with pytest.raises(NotVerified):
            check_raw(key.key, b"message", signature)


def test_generated_keys_differ() -> None:
    """The seed is unpredictable."""
    assert len({SigningKey.generate("example.org/log", KeyType.NOTE).key.public for _ in range(8)}) == 8


def test_a_private_key_is_shown_and_copied_nowhere() -> None:
    """Neither a log line nor a pickle carries the seed."""
    key = SigningKey("example.org/log", KeyType.NOTE, SEED)

    assert encode_base64(SEED) not in repr(key)
    assert repr(SEED) not in repr(key)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(key)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.removeprefix("PRIVATE+KEY+"),
        lambda text: text.replace("log", "lag"),
        lambda text: text[:-4],
        lambda text: text + "\n",
        lambda text: text.replace("+AQ", "+BA"),
        lambda text: text.replace("+AQ", "+Ag"),
        lambda text: "PRIVATE+KEY+x",
        lambda text: text.replace("PRIVATE", "private"),
    ],
)
def test_a_spoilt_private_key_is_refused_and_not_repeated(change: Any) -> None:
    """What is wrong is said without the key."""
    text = encode_key(SigningKey("example.org/log", KeyType.NOTE, SEED))

    with pytest.raises(InvalidInput) as caught:
        parse_key(change(text))
    assert text[-20:-8] not in f"{caught.value} {caught.value.hint}"


def test_a_key_needs_a_name_and_a_whole_seed() -> None:
    """A name with a plus could not be read back."""
    for name in ("", "a+b", "a b", "a\tb", "a\u2003b", "\ud800"):
        with pytest.raises(InvalidInput):
            SigningKey(name, KeyType.NOTE, SEED)
    with pytest.raises(ConfigError):
        SigningKey("a", KeyType.NOTE, SEED[1:])


def test_a_key_file_is_the_owners_alone_and_never_written_over(tmp_path: Path) -> None:
    """Mode 0600 from its first moment; a second key does not replace the first."""
    key = SigningKey("example.org/log", KeyType.SUBTREE, SEED)
    write_key_file(tmp_path / "log.key", key)

    with pytest.raises(ConfigError, match="never written over"):
        write_key_file(tmp_path / "log.key", SigningKey.generate("example.org/log", KeyType.NOTE))
    assert stat.S_IMODE((tmp_path / "log.key").stat().st_mode) == 0o600
    assert read_key_file(tmp_path / "log.key").key == key.key


def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Missing, readable by others, a folder, too long, not text, no key: each is said, with the path."""
    file = tmp_path / "log.key"
    with pytest.raises(ConfigError, match=r"log\.key cannot be read"):
        read_key_file(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key_file(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_key_file(tmp_path / "missing" / "log.key", SigningKey("a", KeyType.NOTE, SEED))
    write_key_file(file, SigningKey("a", KeyType.NOTE, SEED))
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="by others"):
            read_key_file(file)
    file.chmod(0o600)
    for content in (b"", b"\xff", b"PRIVATE+KEY+a", b"x" * 5000, file.read_bytes() + b"\n"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="holds no private key"):
            read_key_file(file)


def test_one_key_does_not_serve_two_types() -> None:
    """What a log signs as a note might be read as what a witness signs, and the other way round."""
    one, other = (SigningKey("example.org/a", kind, SEED).key for kind in (KeyType.NOTE, KeyType.COSIGNATURE))

    with pytest.raises(ConfigError, match="two types"):
        check_keys([one, other])
    with pytest.raises(ConfigError, match="two types"):
        check_keys([one, SigningKey("example.org/b", KeyType.COSIGNATURE, SEED).key])
    assert check_keys([one, one]) == (one,)


def test_one_ed25519_cosigner_has_one_name() -> None:
    """Its signatures do not say which of the two gave them; those of ML-DSA do."""
    with pytest.raises(ConfigError, match="two names"):
        check_keys([SigningKey(name, KeyType.COSIGNATURE, SEED).key for name in "ab"])
    assert len(check_keys([SigningKey(name, KeyType.SUBTREE, SEED).key for name in "ab"])) == 2


def test_two_keys_that_cannot_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id has four bytes, so that such a pair can be made on purpose; here the id is pinned instead of searched."""
    monkeypatch.setattr(VKey, "id", 7)

    with pytest.raises(ConfigError, match="same name and id"):
        check_keys([SigningKey("a", KeyType.NOTE, bytes([each] * 32)).key for each in (1, 2)])


@given(NAMES, st.sampled_from([KeyType.NOTE, KeyType.COSIGNATURE]), st.binary(min_size=32, max_size=32))
@settings(max_examples=40, deadline=None)
def test_any_key_reads_back(name: str, kind: KeyType, seed: bytes) -> None:
    """Whatever its name; the id is computed once more, step by step."""
    key = SigningKey(name, kind, seed)

    text = str(key.key)
    assert parse_vkey(text) == key.key
    assert parse_key(encode_key(key)).key == key.key
    assert text.split("+")[1] == hashlib.sha256(b"%b\n%c%b" % (name.encode(), kind, key.key.public)).hexdigest()[:8]


@given(st.text(max_size=80) | NAMES.map(lambda name: f"{name}+00000000+AAAA"))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_key_or_an_error_of_ours(text: str) -> None:
    """No other exception."""
    for read in (parse_vkey, parse_key):
        try:
            read(text)
        except InvalidInput:
            continue
        raise AssertionError("chance made a key")


@given(st.binary(max_size=50), st.text("AQgx+/=", max_size=12))
@settings(max_examples=60, deadline=None)
def test_strict_base64_has_one_text_for_the_same_bytes(data: bytes, text: str) -> None:
    """What is read strictly is written the same; what is read leniently has the same length."""
    assert decode_base64(encode_base64(data)) == data
    read = decode_base64(text)
    if read is not None:
        assert encode_base64(read) == text
        assert decode_base64(text, strict=False) == read
