# SPDX-License-Identifier: Apache-2.0
"""The matcher on Hyperscan: one pass over a text says which patterns occur in it; RE2 says where.

All patterns are compiled into one automaton, so that a text without an attack costs one scan and no Python at all:
8 us for 2 KB and 250 patterns. Compiling takes seconds, so the result is kept (see `kept`).

The binding crashes when a handler or context is dropped during a scan, or a scratch is used by two threads. So the
handler is a module function, and the matcher owns the database and, for each thread, one scratch and one context for as
long as it lives itself. Source: Hyperscan developer reference, "Scratch space"; python-hyperscan 0.9.
"""

import hashlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import hyperscan

from shieldwall.core.errors import RuleError
from shieldwall.detect.kept import fetch, keep
from shieldwall.detect.matcher import Hit, Locator
from shieldwall.detect.phrase import Compiled

__all__ = ["HyperscanMatcher"]

_NOTHING: tuple[int, ...] = ()
_VERSION: str = hyperscan.__version__  # type: ignore[attr-defined]
_NEVER = rb"\x00\x01\x00\x01"
"""An empty list does not compile; folded text holds no such controls."""


def _note(index: int, start: int, end: int, flags: int, context: Any) -> None:  # noqa: ANN401, ARG001  the binding's signature
    context.append(index)


class _Desk(threading.local):
    """What one thread needs to scan; made when the thread first asks."""

    def __init__(self, database: "hyperscan.Database", owned: list[object]) -> None:
        scratch = hyperscan.Scratch(database)
        self.context: list[int] = []
        self.scan = partial(database.scan, match_event_handler=_note, context=self.context, scratch=scratch)
        # A thread's locals die with the thread; the matcher keeps the scratch until after its last scan.
        owned.append((scratch, self.context))


class HyperscanMatcher:
    """See `Matcher`."""

    def __init__(self, patterns: Sequence[Compiled]) -> None:
        self._locator = Locator(patterns)
        self._size = len(patterns)
        self._owned: list[object] = []
        self._database = _database([pattern.regex.encode() for pattern in patterns] or [_NEVER])
        self._desk = _Desk(self._database, self._owned)

    def which(self, data: bytes) -> Sequence[int]:
        """See `Matcher.which`."""
        desk = self._desk
        context = desk.context
        context.clear()
        desk.scan(data)
        if not context:
            return _NOTHING
        return sorted({index for index in context if index < self._size})

    def first(self, index: int, data: bytes, start: int = 0) -> Hit | None:
        """See `Matcher.first`."""
        return self._locator.first(index, data, start)


def _database(expressions: list[bytes]) -> "hyperscan.Database":
    """The automaton of these expressions: as it was kept, or compiled now. Raises RuleError."""
    digest = hashlib.sha256(_VERSION.encode())
    for expression in expressions:
        digest.update(b"%d:%b" % (len(expression), expression))
    name = f"rules-{digest.hexdigest()[:32]}.hs"
    data = fetch(name)
    if data is not None:
        try:
            database = hyperscan.loadb(data, mode=hyperscan.HS_MODE_BLOCK)
            hyperscan.Scratch(database)
        except hyperscan.error:
            # Made on a processor that can more, or damaged: it is made anew.
            pass
        else:
            return database
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    size = len(expressions)
    try:
        database.compile(
            expressions=expressions,
            ids=list(range(size)),
            elements=size,
            flags=[hyperscan.HS_FLAG_SINGLEMATCH] * size,
        )
    except hyperscan.error as error:
        raise RuleError(f"hyperscan cannot compile the rules: {error}") from None
    keep(name, hyperscan.dumpb(database))
    return database
