# SPDX-License-Identifier: Apache-2.0
"""Keys of a log and its witnesses: name, type and key material as one thing, because an id is made of all three.

C2SP signed-note v1.0.0, "verifier keys". A key under another name, or for another purpose, is another key.

Private keys are kept in one line of text, `PRIVATE+KEY+name+id+base64(type || seed)`, the form of Go's note package, in
a file of mode 0600, and not as PKCS8: PKCS8 has no place for name and type, and a key that has lost them signs under a
name, or in a role, that nobody meant. The line is not encrypted; who can read the file can sign.
"""

import base64
import binascii
import enum
import functools
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from shieldwall.core.errors import ConfigError, InvalidInput, LimitExceeded

__all__ = [
    "KeyType",
    "NotVerified",
    "SigningKey",
    "VKey",
    "check_keys",
    "check_name",
    "check_raw",
    "decode_base64",
    "encode_base64",
    "encode_key",
    "is_name",
    "parse_key",
    "parse_vkey",
    "read_key_file",
    "write_key_file",
]

_SEED_BYTES = 32
_MAX_KEY_FILE_BYTES = 4096
_PRIVATE = "PRIVATE+KEY+"
_HEX_ID = re.compile(r"[0-9a-f]{8}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


class NotVerified(InvalidInput):
    """It can be read, but a signature, a quorum or a proof does not hold. Nothing of it may be believed."""


class KeyType(enum.IntEnum):
    """What a key signs: the first byte of its material, and part of its id. Other types are not supported."""

    NOTE = 0x01
    """Ed25519 over the text of a note: how a log signs."""
    COSIGNATURE = 0x04
    """Ed25519 over a time and a checkpoint: how a witness signs, `cosignature/v1`."""
    SUBTREE = 0x06
    """ML-DSA-44 over name, time, origin, size and root, `subtree/v1`: how witness and log sign against quantum."""


_PUBLIC_BYTES = {KeyType.NOTE: 32, KeyType.COSIGNATURE: 32, KeyType.SUBTREE: 1312}


class VKey(msgspec.Struct, frozen=True):
    """A verifier key. `str` gives its text, `name+id+base64(type || public key)`."""

    name: str
    type: KeyType
    public: bytes
    """32 bytes of Ed25519, or 1312 of ML-DSA-44."""

    @property
    def id(self) -> int:
        """First four bytes of SHA-256(name, LF, type, public key), big-endian."""
        data = self.name.encode() + b"\n" + bytes([self.type]) + self.public
        return int.from_bytes(hashlib.sha256(data).digest()[:4], "big")

    def __str__(self) -> str:
        return f"{self.name}+{self.id:08x}+{encode_base64(bytes([self.type]) + self.public)}"


class SigningKey:
    """A private key with its name and type. Its text is had from `encode_key` alone, and `repr` hides it.

    Args:
        name: Non-empty, without Unicode space and `+`. A log's key is named like its origin.
        type: What it signs.
        seed: 32 unpredictable bytes.

    Raises:
        InvalidInput: The name does not fit. ConfigError: the seed does not, or cryptography was built without ML-DSA.
    """

    __slots__ = ("_private", "_seed", "key")

    key: VKey
    """What others verify with."""

    def __init__(self, name: str, type: KeyType, seed: bytes) -> None:  # noqa: A002  the word of the format
        check_name(name)
        if len(seed) != _SEED_BYTES:
            raise ConfigError(f"the seed of a private key has {_SEED_BYTES} bytes")
        self._seed = seed
        try:
            self._private: Ed25519PrivateKey | MLDSA44PrivateKey = (
                MLDSA44PrivateKey.from_seed_bytes(seed)
                if type is KeyType.SUBTREE
                else Ed25519PrivateKey.from_private_bytes(seed)
            )
        except UnsupportedAlgorithm:
            raise _no_mldsa() from None
        self.key = VKey(name, type, self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, type: KeyType) -> "SigningKey":  # noqa: A002  the word of the format
        """Make a new one."""
        return cls(name, type, secrets.token_bytes(_SEED_BYTES))

    def sign(self, message: bytes) -> bytes:
        """Sign these very bytes. What they have to be is said by `sign_note` and `cosignature`: call those."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.key.name!r}, {self.key.type!r})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def parse_vkey(text: str) -> VKey:
    """Read a verifier key; its id is computed again and compared.

    Raises:
        InvalidInput: It is none, its id does not fit, or its type is not supported.
    """
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise InvalidInput("a verifier key is not name+id+key", hint="copy the whole line, as `vkey` printed it")
    name, stated, material = parts
    check_name(name)
    data = _decode_material(material, "verifier key")
    kind = _type(data[0])
    key = VKey(name, kind, data[1:])
    if len(key.public) != _PUBLIC_BYTES[kind]:
        raise InvalidInput(f"a verifier key of type {kind:02x} has {_PUBLIC_BYTES[kind]} bytes, not {len(key.public)}")
    _check_id(key, stated, "verifier key")
    _load(kind, key.public)
    return key


def encode_key(key: SigningKey) -> str:
    """Text of a private key, without a line end. Whoever reads it can sign."""
    material = encode_base64(bytes([key.key.type]) + key._seed)  # noqa: SLF001  the one place that lets it out
    return f"{_PRIVATE}{key.key.name}+{key.key.id:08x}+{material}"


def parse_key(text: str) -> SigningKey:
    """Read the text of a private key. No error repeats any of it.

    Raises:
        InvalidInput: It is none, or its id does not fit. ConfigError: see `SigningKey`.
    """
    parts = text.removeprefix(_PRIVATE).split("+", 2)
    if not text.startswith(_PRIVATE) or len(parts) != 3:
        raise InvalidInput("a private key is not PRIVATE+KEY+name+id+key")
    name, stated, material = parts
    check_name(name)
    data = _decode_material(material, "private key")
    if len(data) != 1 + _SEED_BYTES:
        raise InvalidInput(f"a private key has a type and {_SEED_BYTES} bytes")
    key = SigningKey(name, _type(data[0]), data[1:])
    _check_id(key.key, stated, "private key")
    return key


def write_key_file(path: Path, key: SigningKey) -> None:
    """Write a private key to a new file of mode 0600, durable on return.

    Raises:
        ConfigError: The file is there already (a key is never written over), or the disk refuses.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(encode_key(key) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # half a key would only stand in the way
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise ConfigError(f"{path} exists; a key is never written over", hint="choose another name") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def read_key_file(path: Path) -> SigningKey:
    """Read a private key back.

    Raises:
        ConfigError: It cannot be read, others may read it, or it holds no private key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}, and think of who has read it")
    try:
        if len(data) > _MAX_KEY_FILE_BYTES:
            raise LimitExceeded("it is too long")
        return parse_key(data.decode().removesuffix("\n"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} holds no private key: it is not text") from None
    except InvalidInput as error:
        raise ConfigError(f"{path} holds no private key: {error}") from None


def check_raw(key: VKey, message: bytes, signature: bytes) -> None:
    """Verify a bare signature over these very bytes. Raises NotVerified."""
    try:
        _load(key.type, key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise NotVerified(f"a signature of type {key.type:02x} by a known key fails") from None


def check_keys(keys: Iterable[VKey]) -> tuple[VKey, ...]:
    """Keys that may be trusted together, each once.

    Raises:
        ConfigError: One public key serves two types: what it signs as the one might be read as the other. Or one
            Ed25519 cosigner has two names, which its signatures do not tell apart. Or two keys share name and id.
    """
    kept: dict[tuple[str, int], VKey] = {}
    roles: dict[bytes, VKey] = {}
    for key in keys:
        if kept.setdefault((key.name, key.id), key) != key:
            raise ConfigError("two verifier keys have the same name and id")
        other = roles.setdefault(key.public, key)
        if other.type is not key.type:
            raise ConfigError("one key serves two types of signature", hint="make a key for each role")
        if key.type is KeyType.COSIGNATURE and other.name != key.name:
            raise ConfigError("one Ed25519 cosigner key has two names", hint="make a key for each cosigner")
    return tuple(kept.values())


def encode_base64(data: bytes) -> str:
    """Write standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, *, strict: bool = True) -> bytes | None:
    """Read standard base64, or give None where it is none. Strict: the one way `encode_base64` would write it."""
    if _BASE64.fullmatch(text) is None or len(text) % 4:
        return None
    try:
        data = base64.b64decode(text)
    except binascii.Error:
        return None
    return None if strict and encode_base64(data) != text else data


def is_name(name: str) -> bool:
    """Whether a key may be called so: not empty, no Unicode space, plus or control character."""
    return bool(name) and not any(each == "+" or each.isspace() or each < " " for each in name)


def check_name(name: str) -> None:
    """Raise InvalidInput where a key may not be called so."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the name of a key is not text") from None
    if not is_name(name):
        raise InvalidInput("the name of a key is empty, or has a space, a plus or a control character")


def _type(byte: int) -> KeyType:
    try:
        return KeyType(byte)
    except ValueError:
        raise InvalidInput(
            f"keys of type {byte:02x} are not supported", hint="supported are 01, 04 (Ed25519) and 06 (ML-DSA-44)"
        ) from None


def _decode_material(text: str, what: str) -> bytes:
    data = decode_base64(text)
    if not data:
        raise InvalidInput(f"the last part of a {what} is not base64")
    return data


def _check_id(key: VKey, stated: str, what: str) -> None:
    if _HEX_ID.fullmatch(stated) is None or int(stated, 16) != key.id:
        raise InvalidInput(f"the id of a {what} does not fit its name and key", hint="the name or a letter was changed")


@functools.lru_cache(maxsize=256)
def _load(kind: KeyType, public: bytes) -> Ed25519PublicKey | MLDSA44PublicKey:
    """Make it a key of the library: once, because that costs more than to verify for ML-DSA."""
    try:
        if kind is KeyType.SUBTREE:
            return MLDSA44PublicKey.from_public_bytes(public)
        return Ed25519PublicKey.from_public_bytes(public)
    except UnsupportedAlgorithm:
        raise _no_mldsa() from None
    except ValueError:
        raise InvalidInput(f"the public key is none of type {kind:02x}") from None


def _no_mldsa() -> ConfigError:
    return ConfigError("this build of cryptography has no ML-DSA-44", hint="install the wheel of cryptography 50")
