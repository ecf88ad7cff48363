# SPDX-License-Identifier: Apache-2.0
"""Bytes as a trust policy: an error of ours, or a quorum that all its witnesses meet, and one more never undoes."""

from shieldwall.core.errors import PolicyError
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.trust import is_quorum, parse_policy

__all__ = ["SEEDS", "fuzz"]

_LOG = SigningKey("example.org/log", KeyType.NOTE, b"l" * 32).key
_KEYS = [SigningKey(f"w{number}.example", KeyType.COSIGNATURE, bytes([number] * 32)).key for number in range(4)]


def fuzz(data: bytes) -> None:
    """Read it and ask it."""
    try:
        policy = parse_policy(data)
    except PolicyError:
        return
    names = [each.name for each in policy.witnesses]
    assert is_quorum(policy, set(names))
    assert is_quorum(policy, set()) is (policy.quorum is None)
    answers = [is_quorum(policy, set(names[:count])) for count in range(len(names) + 1)]
    assert answers == sorted(answers)


_WITNESSES = b"".join(b"witness w%d %b\n" % (number, str(key).encode()) for number, key in enumerate(_KEYS))

SEEDS: list[bytes] = [
    b"quorum none\n",
    b"# one log\nlog %b https://log.example/\n" % str(_LOG).encode() + _WITNESSES + b"quorum w0\n",
    _WITNESSES + b"group a 2 w0 w1 w2\ngroup b any w3\ngroup c all a b\n\nquorum c\n",
    _WITNESSES + b"\tgroup  \xff  all w0 w1 \nquorum \xff\n",
]
"""No witness, one, groups on two levels, and a name that is not UTF-8."""
