# SPDX-License-Identifier: Apache-2.0
"""Recognises the turns of one conversation: a session is a key and the longest known prefix of messages.

Chat protocols are stateless: each request repeats the conversation so far. The digests of its message prefixes are
looked up, longest first; a request that continues a known prefix belongs to that session.
"""

import hashlib
from collections import OrderedDict

from shieldwall.gateway.dialect import Ask

__all__ = ["Sessions"]

_REMEMBERED = 65_536
"""Prefixes kept in memory, about 200 bytes each; the least recently seen go first."""


class Sessions:
    """Names the session of each request."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._remembered = remembered

    def of(self, key: str, ask: Ask, fresh: str) -> str:
        """Id of the session this request belongs to; `fresh` if it begins one."""
        state = hashlib.blake2b(key.encode(), digest_size=16)
        prefixes: list[bytes] = []
        for start, end in ask.turns:
            for segment in ask.segments[start:end]:
                state.update(b"%d\0" % len(segment.text))
                state.update(segment.text.encode("utf-8", "surrogatepass"))
            state.update(b"\1")
            prefixes.append(state.digest())
        session = fresh
        # The last message is new in every turn, so a prefix that is the whole conversation is a repetition: also the
        # same.
        for prefix in reversed(prefixes):
            known = self._known.get(prefix)
            if known is not None:
                self._known.move_to_end(prefix)
                session = known
                break
        if prefixes:
            self._known[prefixes[-1]] = session
            while len(self._known) > self._remembered:
                self._known.popitem(last=False)
        return session
