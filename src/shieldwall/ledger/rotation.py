# SPDX-License-Identifier: Apache-2.0
"""The entry that hands a log over to its next keys, so that whoever trusts the old ones learns the new from the log.

It is the last entry that has to be under the old keys: a proof of it, the disclosed fields and the old keys are all it
takes. For keys that were stolen it says nothing, because the thief can sign it too: then the new keys have to be told
another way.
"""

from collections.abc import Iterable

from shieldwall.core.entry import EntryType, check_field, read_entry, seal_entry
from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.keys import VKey

__all__ = ["check_rotation", "seal_rotation"]


def seal_rotation(
    *, old: str, new: str, keys: Iterable[VKey], time: int, node: str, secret: bytes
) -> tuple[bytes, bytes]:
    """Write the entry and its opening.

    Args:
        old: Origin of the shard that ends.
        new: Origin of the shard that follows.
        keys: What the new shard signs with.
        time: Microseconds since the Unix epoch.
        node: Name of the node.
        secret: 32 unpredictable bytes, new for each entry.
    """
    return seal_entry(
        type=EntryType.KEY_ROTATE,
        time=time,
        node=node,
        event="ledger",
        subject="",
        policy="",
        model="",
        action="",
        score=0,
        findings=(),
        fields={"old": old, "new": new, "keys": _texts(keys)},
        secret=secret,
    )


def check_rotation(
    entry: bytes, *, old: str, new: str, keys: Iterable[VKey], salts: tuple[bytes, bytes, bytes]
) -> None:
    """Prove that an entry hands `old` over to `new` with these keys. That it is in the old log, a receipt proves.

    Args:
        entry: The entry.
        old: Origin of the shard that ended.
        new: Origin of the shard that followed.
        keys: Its keys.
        salts: Of the fields `old`, `new` and `keys`, as `entry.open_field` gives them.

    Raises:
        InvalidInput: It does not.
    """
    if read_entry(entry).type is not EntryType.KEY_ROTATE:
        raise InvalidInput("the entry rotates no key")
    for name, value, salt in zip(("old", "new", "keys"), (old, new, _texts(keys)), salts, strict=True):
        check_field(entry, name, value, salt)


def _texts(keys: Iterable[VKey]) -> list[str]:
    return sorted(map(str, keys))
