# SPDX-License-Identifier: Apache-2.0
"""The matcher on Hyperscan: one pass over literals says which patterns are worth a closer look, RE2 looks closer.

Why literals and not the patterns themselves: a hundred patterns with gaps take Hyperscan a second to compile, their
most telling words some ten milliseconds, and a text without an attack seldom holds one. Logical combinations of
literals inside Hyperscan were measured too: 29 us per call for 200 of them, whatever the text.

The binding crashes when a handler or context is dropped during a scan, or a scratch is used by two threads. So the
handler is a module function, and the matcher owns the database and, for each thread, one scratch and one context for as
long as it lives itself. Source: Hyperscan developer reference, "Scratch space"; python-hyperscan 0.9.
"""

import threading
from collections.abc import Sequence
from typing import Any

import hyperscan

from shieldwall.core.errors import RuleError
from shieldwall.detect.matcher import Hit, Locator
from shieldwall.detect.phrase import Compiled

__all__ = ["HyperscanMatcher"]

_NOTHING: tuple[int, ...] = ()


def _note(index: int, start: int, end: int, flags: int, context: Any) -> None:  # noqa: ANN401, ARG001  the binding's signature
    context.append(index)


class _Desk(threading.local):
    """What one thread needs to scan; made when the thread first asks."""

    def __init__(self, database: "hyperscan.Database", owned: list[object]) -> None:
        self.scratch = hyperscan.Scratch(database)
        self.context: list[int] = []
        # A thread's locals die with the thread; the matcher keeps the scratch until after its last scan.
        owned.append((self.scratch, self.context))


class HyperscanMatcher:
    """See `Matcher`."""

    def __init__(self, patterns: Sequence[Compiled]) -> None:
        self._locator = Locator(patterns)
        self._others = [pattern.needs[1:] for pattern in patterns]
        users: dict[bytes, list[int]] = {}
        for index, pattern in enumerate(patterns):
            for literal in pattern.needs[0]:
                users.setdefault(literal, []).append(index)
        self._users = list(users.values())
        self._owned: list[object] = []
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        # An empty list does not compile; folded text holds no such controls, and the literal has no users.
        literals = list(users) or [b"\x01\x02\x01\x02"]
        try:
            self._database.compile(
                expressions=literals,
                ids=list(range(len(literals))),
                elements=len(literals),
                flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(literals),
                literal=True,
            )
        except hyperscan.error as error:
            raise RuleError(f"hyperscan cannot compile the rules: {error}") from None
        self._desk = _Desk(self._database, self._owned)

    def which(self, data: bytes) -> Sequence[int]:
        """See `Matcher.which`."""
        desk = self._desk
        context = desk.context
        context.clear()
        self._database.scan(data, match_event_handler=_note, context=context, scratch=desk.scratch)
        if not context:
            return _NOTHING
        users = self._users
        candidates = {index for literal in context if literal < len(users) for index in users[literal]}
        return [index for index in sorted(candidates) if self._occurs(index, data)]

    def first(self, index: int, data: bytes, start: int = 0) -> Hit | None:
        """See `Matcher.first`."""
        return self._locator.first(index, data, start)

    def _occurs(self, index: int, data: bytes) -> bool:
        for literals in self._others[index]:
            for literal in literals:
                if literal in data:
                    break
            else:
                return False
        return self._locator.occurs(index, data)
