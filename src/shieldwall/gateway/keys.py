# SPDX-License-Identifier: Apache-2.0
"""Virtual keys: what clients send instead of a provider's key.

A key is `sw-<id>-<secret>`: the id names the record, the secret has 256 bits, so one SHA-256 is enough to store it.
Only hashes are kept; the comparison takes the same time whatever is sent. The file is replaced as a whole, so a crash
leaves the old one or the new one.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shieldwall.core.errors import ConfigError, Forbidden, Unauthorized

__all__ = ["ROLES", "Key", "Keys"]

ROLES = ("user", "operator", "approver", "auditor", "viewer")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NOBODY = b"\0" * 32


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one key. The key itself is nowhere."""

    id: str
    name: str
    role: str = "user"
    tenant: str = "default"
    sha256: str
    """Hex digest of the secret part."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    keys: list[Key]


def _unusable(path: Path) -> ConfigError:
    hint = "restore it from a backup, or remove it and create new keys"
    return ConfigError(f"{path} is not a key file of this version", hint=hint)


class Keys:
    """The keys of one data directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_id: dict[str, tuple[bytes, Key]] = {}
        if path.exists():
            try:
                file = msgspec.json.decode(path.read_bytes(), type=_File)
                self._by_id = {key.id: (bytes.fromhex(key.sha256), key) for key in file.keys}
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
            except (msgspec.MsgspecError, ValueError, RecursionError):
                raise _unusable(path) from None
            if file.v != 1 or any(len(digest) != len(_NOBODY) for digest, _ in self._by_id.values()):
                raise _unusable(path)

    def __len__(self) -> int:
        return len(self._by_id)

    def create(self, name: str, *, role: str = "user", tenant: str = "default") -> str:
        """Make a key and return it, the only time it can be seen.

        Raises:
            ConfigError: The name or the role is not usable, or the name is taken.
        """
        if _NAME.fullmatch(name) is None:
            raise ConfigError(
                "a key's name is 1 to 64 letters, digits, dots, dashes, underscores or @", hint="choose another name"
            )
        if role not in ROLES:
            raise ConfigError(f"no role of that name; roles are {', '.join(ROLES)}")
        if any(key.name == name for _, key in self._by_id.values()):
            raise ConfigError(f"there is a key named {name} already", hint="choose another name")
        public, secret = secrets.token_hex(6), secrets.token_hex(32)
        digest = hashlib.sha256(secret.encode()).digest()
        key = Key(id=public, name=name, role=role, tenant=tenant, sha256=digest.hex())
        self._save([*(known for _, known in self._by_id.values()), key])
        self._by_id[public] = (digest, key)
        return f"sw-{public}-{secret}"

    def of(self, presented: str) -> Key:
        """The record of a presented key. Raises Unauthorized."""
        prefix, _, rest = presented.partition("-")
        public, _, secret = rest.partition("-")
        known = self._by_id.get(public) if prefix == "sw" else None
        digest = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
        # An unknown id is compared with something too, so that both answers take the same time.
        if not hmac.compare_digest(digest, known[0] if known else _NOBODY) or known is None:
            raise Unauthorized("the key is not known here")
        return known[1]

    def authenticate(self, headers: Mapping[bytes, bytes], *roles: str) -> Key:
        """The key of a request, from `Authorization: Bearer` or `x-api-key`.

        Raises:
            Unauthorized: No key, or an unknown one.
            Forbidden: The key's role is not among `roles`.
        """
        bearer = headers.get(b"authorization", b"")
        sent = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        presented = sent.strip()
        if not presented:
            raise Unauthorized("no key was sent")
        key = self.of(presented.decode("latin-1"))
        self.permit(key, *roles)
        return key

    def permit(self, key: Key, *roles: str) -> None:
        """Raise Forbidden unless the key's role is among `roles`."""
        if key.role not in roles:
            raise Forbidden(f"a key of role {key.role} may not do this", hint=f"use a key of role {' or '.join(roles)}")

    def _save(self, keys: list[Key]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(_File(1, keys)), indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
