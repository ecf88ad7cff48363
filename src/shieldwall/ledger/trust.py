# SPDX-License-Identifier: Apache-2.0
"""Whom a verifier trusts: which logs, which witnesses, and how many of them have to agree.

C2SP tlog-policy: one text file, read the same by other people's tools. Lines are `log <vkey> [<url>]`,
`witness <name> <vkey> [<url>]`, `group <name> all|any|<k> <member>...` and, once, `quorum <name>|none`; a name is
defined before it is used, and is a member once, so that no witness counts twice. Names are bytes and are only compared.

Stricter than the format where a mistake would weaken it: the last line has to end (a file that was cut off could name a
smaller quorum), and a public key stands in one line only, so that no log is its own witness.
"""

import re
from collections.abc import Iterable, Sized
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, PolicyError
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.cosignature import open_checkpoint
from shieldwall.ledger.keys import KeyType, NotVerified, VKey, check_keys, parse_vkey
from shieldwall.ledger.note import Verified

__all__ = [
    "MAX_LINES_OF_A_KIND",
    "MAX_POLICY_BYTES",
    "Group",
    "Known",
    "Policy",
    "TrustedCheckpoint",
    "is_quorum",
    "parse_policy",
    "verify_checkpoint",
]

MAX_POLICY_BYTES: Final = 1 << 20
MAX_LINES_OF_A_KIND: Final = 256
"""Logs, witnesses and groups, each. The format asks for 32; ML-DSA keys of 256 logs and witnesses fit the bytes."""

_NONE = b"none"
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")
_LOG_TYPES = frozenset({KeyType.NOTE, KeyType.SUBTREE})
_WITNESS_TYPES = frozenset({KeyType.COSIGNATURE, KeyType.SUBTREE})


class Known(msgspec.Struct, frozen=True):
    """A log or a witness of the policy."""

    key: VKey
    name: bytes = b""
    """What the policy calls the witness; empty for a log, whose name is its key's: the origin."""
    url: str = ""
    """Where it is reached, empty where that is not said. Bytes that are not UTF-8 are shown as escapes."""


class Group(msgspec.Struct, frozen=True):
    """Witnesses and groups of which so many have to have witnessed a checkpoint."""

    name: bytes
    least: int
    members: tuple[bytes, ...]


class Policy(msgspec.Struct, frozen=True):
    """Whom to trust, as `parse_policy` read it."""

    logs: tuple[Known, ...]
    witnesses: tuple[Known, ...]
    groups: tuple[Group, ...]
    """Each after its members."""
    quorum: bytes | None
    """Name of a witness or a group; None where no cosignature is asked for."""


class TrustedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint that a policy accepts."""

    checkpoint: Checkpoint
    log: tuple[Verified, ...]
    """The log's own signatures, at least one."""
    witnesses: tuple[tuple[Known, int], ...]
    """Who cosigned and the time it stated, seconds since the Unix epoch. Whether that is plausible, a caller with a
    clock has to judge."""


class _Reader:
    """What was read so far, line by line."""

    def __init__(self) -> None:
        self.logs: list[Known] = []
        self.witnesses: list[Known] = []
        self.groups: list[Group] = []
        self.quorum: bytes | None = None
        self.has_quorum = False
        self._names: set[bytes] = {_NONE}
        self._members: set[bytes] = set()
        self._keys: set[bytes] = set()

    def read(self, line: bytes) -> None:
        """Take one line, which may be empty or a comment. Raises InvalidInput, without its number."""
        if _FORBIDDEN.search(line) is not None:
            raise InvalidInput("there is a control character")
        words = line.split()  # at spaces and tabs: nothing else that `split` knows is left
        if words and not words[0].startswith(b"#"):
            self._read(*words)

    def _read(self, kind: bytes, *rest: bytes) -> None:
        if kind == b"log" and len(rest) in {1, 2}:
            self.logs.append(Known(self._key(rest[0], _LOG_TYPES, "log"), b"", _url(*rest[1:])))
            _check_count(self.logs)
        elif kind == b"witness" and len(rest) in {2, 3}:
            key = self._key(rest[1], _WITNESS_TYPES, "witness")
            self.witnesses.append(Known(key, self._define(rest[0]), _url(*rest[2:])))
            _check_count(self.witnesses)
        elif kind == b"group" and len(rest) >= 3:
            self._group(rest[0], rest[1], *rest[2:])
            _check_count(self.groups)
        elif kind == b"quorum" and len(rest) == 1:
            if self.has_quorum:
                raise InvalidInput("there is a second quorum")
            if rest[0] != _NONE:
                self._check_defined(rest[0])
                self.quorum = rest[0]
            self.has_quorum = True
        elif kind in {b"log", b"witness", b"group", b"quorum"}:
            raise InvalidInput("there are too many words or too few")
        else:
            raise InvalidInput("it starts with none of log, witness, group, quorum")

    def _group(self, name: bytes, least: bytes, *members: bytes) -> None:
        for each in members:
            if each == _NONE:
                raise InvalidInput("none is no member of a group")
            self._check_defined(each)
            if each in self._members:
                raise InvalidInput("a member is in a group already: each name counts once")
            self._members.add(each)
        count = {b"any": 1, b"all": len(members)}.get(least)
        if count is None:
            count = int(least) if _COUNT.fullmatch(least) is not None else 0
        if not 1 <= count <= len(members):
            raise InvalidInput("a group needs any, all, or a number from 1 to that of its members")
        # Defined last: a group is no member of itself.
        self.groups.append(Group(self._define(name), count, members))

    def _define(self, name: bytes) -> bytes:
        if name in self._names:
            raise InvalidInput("its name is defined already")
        self._names.add(name)
        return name

    def _check_defined(self, name: bytes) -> None:
        if name == _NONE or name not in self._names:
            raise InvalidInput("a name is not defined in the lines above")

    def _key(self, word: bytes, types: frozenset[KeyType], role: str) -> VKey:
        try:
            key = parse_vkey(word.decode())
        except UnicodeDecodeError:
            raise InvalidInput("the verifier key is not UTF-8") from None
        if key.type not in types:
            allowed = " and ".join(f"{each:02x}" for each in sorted(types))
            raise InvalidInput(f"a {role} has keys of type {allowed}, not {key.type:02x}")
        if key.public in self._keys:
            raise InvalidInput("its public key is in a line above")
        self._keys.add(key.public)
        return key


def parse_policy(data: bytes) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: It is none, or over the limits; the message names the line.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"the trust policy is over {MAX_POLICY_BYTES} bytes")
    if not data.endswith(b"\n"):
        raise PolicyError(
            "the trust policy does not end with a line end", hint="check that it is whole, then end the last line"
        )
    reader = _Reader()
    for number, line in enumerate(data[:-1].split(b"\n"), 1):
        try:
            reader.read(line)
        except (InvalidInput, ConfigError) as error:
            raise PolicyError(f"line {number} of the trust policy: {error}", hint=error.hint) from None
    if not reader.has_quorum:
        raise PolicyError("the trust policy has no quorum", hint="write `quorum none` where no witness is asked for")
    try:
        check_keys(each.key for each in (*reader.logs, *reader.witnesses))
    except ConfigError as error:
        raise PolicyError(f"the trust policy: {error}", hint=error.hint) from None
    return Policy(tuple(reader.logs), tuple(reader.witnesses), tuple(reader.groups), reader.quorum)


def is_quorum(policy: Policy, witnesses: AbstractSet[bytes]) -> bool:
    """Whether the checkpoint that these witnesses, by name, have cosigned is witnessed enough.

    The caller has verified the cosignatures. A name the policy does not know counts for nothing.
    """
    if policy.quorum is None:
        return True
    met = {each.name for each in policy.witnesses if each.name in witnesses}
    # In the order of the file, in which members come first: no recursion, however deep the groups are nested.
    for group in policy.groups:
        if sum(member in met for member in group.members) >= group.least:
            met.add(group.name)
    return policy.quorum in met


def verify_checkpoint(policy: Policy, data: bytes, *, logs: Iterable[VKey] = ()) -> TrustedCheckpoint:
    """Accept a signed checkpoint, or raise.

    Args:
        policy: Whom to trust.
        data: The note, with its cosignatures.
        logs: Keys of the one log the caller has in mind; empty for any log of the policy. A policy that lists logs has
            to list these too; one that lists none leaves it to the caller.

    Raises:
        InvalidInput: It is no signed checkpoint.
        NotVerified: The log did not sign, a signature by a known key fails, or the quorum is not met. A cosignature
            that states no time does not count: its witness did not say that this is the latest it has seen.
        ConfigError: Keys that cannot be trusted together.
    """
    trusted = tuple(each.key for each in policy.logs)
    given = tuple(logs)
    if given:
        trusted = tuple(key for key in given if key in trusted) if trusted else given
    if not trusted:
        raise NotVerified(
            "the trust policy does not list this log" if given else "no log is trusted",
            hint="give the log's verifier key, or list it in the policy",
        )
    witnesses = {each.key: each for each in policy.witnesses}
    if not witnesses.keys().isdisjoint(trusted):
        raise ConfigError("a log of the caller is a witness of the trust policy", hint="a log is not its own witness")
    seen = open_checkpoint(data, (*trusted, *witnesses))
    # The name of a log's key is its origin: a log that signs in the name of another is none of this policy.
    signed = tuple(each for each in seen.signatures if each.key in trusted and each.key.name == seen.checkpoint.origin)
    if not signed:
        raise NotVerified("no trusted log of this origin signed the checkpoint")
    cosigned = tuple(
        (witnesses[each.key], each.time) for each in seen.signatures if each.key in witnesses and each.time
    )
    names = {known.name for known, _ in cosigned}
    if not is_quorum(policy, names):
        raise NotVerified(
            f"the quorum is not met: {len(names)} of {len(policy.witnesses)} witnesses have cosigned",
            hint="fetch the checkpoint again once more witnesses have answered",
        )
    return TrustedCheckpoint(seen.checkpoint, signed, cosigned)


def _url(url: bytes = b"") -> str:
    return url.decode(errors="backslashreplace")


def _check_count(lines: Sized) -> None:
    if len(lines) > MAX_LINES_OF_A_KIND:
        raise InvalidInput(f"there are over {MAX_LINES_OF_A_KIND} lines of this kind")
