# SPDX-License-Identifier: Apache-2.0
"""Who is logged in to the console, for how long, and how fast wrong keys are answered.

Of a session's cookie only the hash is kept, so a copy of the memory gives nobody a login. A session ends when it was
not used for a while, when it is too old, when its owner logs out, or when the same key opens too many others.
Guessing a key is hopeless (256 bits), so wrong keys are slowed down to save the node's time, and a right key never
waits behind them.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable

import msgspec

from shieldwall.gateway import Key

__all__ = ["Attempts", "Session", "Sessions", "Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the console."""

    idle_s: float = 1_800.0
    """Seconds a session lives without use. A page that is open and live counts as use."""
    lifetime_s: float = 43_200.0
    """Seconds a session lives whatever happens: one long shift, so that a forgotten screen logs itself out."""
    max_sessions: int = 256
    """Sessions at a time, over all keys; the one unused for longest gives way."""
    max_sessions_per_key: int = 8
    """Sessions of one key at a time, so that one key cannot push out the others."""
    max_streams: int = 64
    """Live pages at a time; each is a connection and a queue of at most 1,000 small messages."""
    heartbeat_s: float = 15.0
    """Seconds between comments on a quiet stream: common proxies close a connection after 30 s of silence."""
    pace_s: float = 0.05
    """Seconds between two chunks of a stream: still at once for the eye, and a flood wakes it 20 times a second."""
    max_form_bytes: int = 4_096
    """A key has 82 bytes and a token 43; the rest is room."""
    form_timeout_s: float = 10.0
    """Seconds a form may take to arrive."""
    failure_spacing_s: float = 0.5
    """Seconds between two answers to wrong keys, over the whole process."""
    failure_wait_s: float = 8.0
    """Longest wait of such an answer; beyond it the answer is an immediate 429, so that waiting answers stay few."""


class Session:
    """One login."""

    __slots__ = ("digest", "ended", "key", "opened", "token", "used")

    def __init__(self, digest: bytes, key: Key, now: float) -> None:
        self.digest = digest
        """SHA-256 of the cookie's value."""
        self.key = key
        self.token = secrets.token_urlsafe(32)
        """Stands in every form of this session; a page of another site cannot read it."""
        self.opened = now
        self.used = now
        self.ended = asyncio.Event()
        """Set when the session is over, so that its streams end at once."""


class Sessions:
    """The logins of one process."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._by_digest: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def open(self, key: Key) -> tuple[str, Session]:
        """Start a session for a key that was checked. The string is the cookie's value, 256 random bits."""
        now = self._clock()
        for session in [each for each in self._by_digest.values() if self._left(each, now) <= 0]:
            self.close(session)
        same = [each for each in self._by_digest.values() if each.key.id == key.id]
        self._make_room(same, self._settings.max_sessions_per_key)
        self._make_room(list(self._by_digest.values()), self._settings.max_sessions)
        cookie = secrets.token_urlsafe(32)
        session = Session(_digest(cookie), key, now)
        self._by_digest[session.digest] = session
        return cookie, session

    def _make_room(self, sessions: list[Session], limit: int) -> None:
        for session in sorted(sessions, key=lambda each: each.used)[: max(0, len(sessions) - limit + 1)]:
            self.close(session)

    def of(self, cookie: str) -> Session | None:
        """The running session of a cookie, now used; none where it is unknown or over."""
        session = self._by_digest.get(_digest(cookie))
        return session if session is not None and self.touch(session) else None

    def touch(self, session: Session) -> bool:
        """Note that the session is in use. False when it is over."""
        now = self._clock()
        if session.ended.is_set() or self._left(session, now) <= 0:
            self.close(session)
            return False
        session.used = now
        return True

    def left(self, session: Session) -> float:
        """Seconds until the session ends if nobody uses it; 0 or less when it is over."""
        return 0.0 if session.ended.is_set() else self._left(session, self._clock())

    def _left(self, session: Session, now: float) -> float:
        return min(session.used + self._settings.idle_s, session.opened + self._settings.lifetime_s) - now

    def close(self, session: Session) -> None:
        """End a session and its streams. Ending it twice is no error."""
        self._by_digest.pop(session.digest, None)
        session.ended.set()


class Attempts:
    """Spaces the answers to wrong keys: each waits until its turn, and the queue of turns is short."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._spacing_s = settings.failure_spacing_s
        self._wait_s = settings.failure_wait_s
        self._clock = clock
        self._next = 0.0

    def failed(self) -> float | None:
        """Seconds this answer has to wait; none when too many wait already."""
        now = self._clock()
        turn = max(now, self._next) + self._spacing_s
        if turn - now > self._wait_s:
            return None
        self._next = turn
        return turn - now


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
