# SPDX-License-Identifier: Apache-2.0
"""Asks the witnesses of a trust policy to cosign a checkpoint, all at once, and waits no longer than it was told.

C2SP tlog-witness, the client side. Each witness has a thread of its own, one request at a time and a memory of the
size it cosigned last; it learns that size from answers with status 409. A witness that is down, slow or lying delays
nobody and is seen in `status`: what it answered wrongly is never part of a checkpoint. After a failure it rests, longer
each time, and the newest checkpoint is what it is asked for next.
"""

import enum
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from shieldwall.core.errors import ConfigError, Error, InvalidInput, UpstreamError, UpstreamTimeout
from shieldwall.ledger.caller import Caller, Reply
from shieldwall.ledger.checkpoint import parse_checkpoint, parse_number
from shieldwall.ledger.cosignature import check_signature, open_checkpoint
from shieldwall.ledger.keys import VKey
from shieldwall.ledger.note import Signature, parse_note, parse_signatures, write_note
from shieldwall.ledger.trust import Known, Policy, is_quorum
from shieldwall.ledger.witness import Request, origin_hash, write_request

__all__ = ["Collected", "Cosigners", "Prove", "Settings", "WitnessState", "WitnessStatus"]

Prove = Callable[[int], Sequence[bytes]]
"""Consistency proof from an old size to the checkpoint that is being collected for. Called from several threads."""

_MAX_ANSWER_BYTES = 65_536
_SIZE_TYPE = "text/x.tlog.size"
_ATTEMPTS = 3
"""With the size we believe in, with the one it tells, and once more where another client was faster."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long witnesses are waited for."""

    wait_s: float = 1.5
    """Longest wait for a quorum, seconds: with a checkpoint each second, two seconds after an entry it is witnessed."""
    linger_s: float = 0.1
    """Further wait for more witnesses once the quorum is met, seconds: those that are well answer within a few
    milliseconds of each other, and every cosignature more is one more that must have been bribed."""
    timeout_s: float = 5.0
    """Longest request, seconds. It may be longer than the wait: its answer still tells which size the witness has."""
    max_rest_s: float = 15.0
    """Longest rest after failures, seconds: so long it may take to notice that a witness is back."""
    max_skew_s: int = 60
    """How far the time a witness states may be from ours, seconds. Monitors call entries back-dated beyond that."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a figure makes no sense."""
        if min(self.wait_s, self.timeout_s, self.max_rest_s) <= 0 or min(self.linger_s, self.max_skew_s) < 0:
            raise ConfigError("the times of ledger.witnesses are over 0")


class WitnessState(enum.StrEnum):
    """How it is with a witness."""

    NEW = "new"
    """It has not been asked yet."""
    GOOD = "good"
    """Its last answer was a cosignature."""
    STALLED = "stalled"
    """It does not answer in time, or is not reached."""
    REFUSING = "refusing"
    """It answers, but not with a cosignature that holds."""
    AHEAD = "ahead"
    """It has cosigned a larger checkpoint of this log: the log was set back, or another node signs with its key."""
    SILENT = "silent"
    """The trust policy has no URL to ask it at."""


class WitnessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one witness of the policy."""

    name: str
    """What the policy calls it."""
    url: str
    state: WitnessState
    size: int | None
    """Size it has cosigned last, as far as we know."""
    time: int | None
    """When it did, by its own clock; seconds since the Unix epoch."""
    trouble: str
    """Why the last request failed; empty where it did not."""
    failures: int
    """Failures in a row."""
    waiting_s: float
    """Since when the request under way is waited for, seconds; 0 where there is none."""


class Collected(msgspec.Struct, frozen=True):
    """A checkpoint with what witnesses gave within the time."""

    note: bytes
    """The signed note and the cosignatures, each of them verified."""
    witnesses: tuple[bytes, ...]
    """Names of those who cosigned, as in the policy."""
    is_quorum: bool
    """Whether they are enough."""
    ahead: tuple[bytes, ...]
    """Those that say they have cosigned a larger checkpoint. A claim: one that lies must not stop a log."""
    proof: bytes
    """A larger checkpoint with a signature of this log, from one of them; empty where none showed any. Not empty: this
    log was set back or doubled, so sign nothing more."""


class _Ahead(Exception):
    """The witness has seen more of the log than we have."""

    def __init__(self, size: int, proof: bytes) -> None:
        super().__init__(size)
        self.size = size
        self.proof = proof


class _Round:
    """One checkpoint that is being collected for."""

    def __init__(self, note: bytes, prove: Prove) -> None:
        self.note = note
        self.text = parse_note(note).text
        checkpoint = parse_checkpoint(self.text)
        self.origin, self.size = checkpoint.origin, checkpoint.size
        self.prove = prove
        self.lines: dict[bytes, Signature] = {}
        """By name of the witness."""
        self.open: set[_Peer] = set()
        """Asked and not done."""


class _Peer:
    """One URL, the witnesses behind it, and the thread that talks to it.

    The condition of its host guards it all, but `size` and `time`, which the thread alone writes.
    """

    def __init__(self, known: Sequence[Known], caller: Caller, host: "Cosigners") -> None:
        self.known = tuple(known)
        self.caller = caller
        self.size: int | None = None
        self.time: int | None = None
        self.state = WitnessState.NEW
        self.trouble = ""
        self.proof = b""
        self.failures = 0
        self.busy_since: float | None = None
        self.rest_until = 0.0
        self.next: _Round | None = None
        self._host = host
        self._thread: threading.Thread | None = None

    def offer(self, job: _Round) -> bool:
        """Ask for this next, instead of anything older; False while it rests."""
        if self.next is not None:
            self.next.open.discard(self)
            self.next = None
        if time.monotonic() < self.rest_until:
            return False
        self.next = job
        job.open.add(self)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shieldwall-witness", daemon=True)
            self._thread.start()
        return True

    def _run(self) -> None:
        changed = self._host.changed
        while True:
            with changed:
                changed.wait_for(lambda: self.next is not None or self._host.is_closed)
                job, self.next = self.next, None
                if job is None or self._host.is_closed:
                    break
                self.busy_since = time.monotonic()
            state, trouble, proof = WitnessState.GOOD, "", b""
            lines: dict[bytes, Signature] = {}
            try:
                lines = self._ask(job)
            except _Ahead as ahead:
                state, trouble = WitnessState.AHEAD, f"it has cosigned {ahead.size} entries of this log, we have fewer"
                self.size, proof = ahead.size, ahead.proof
            except (UpstreamTimeout, UpstreamError) as error:
                state, trouble = WitnessState.STALLED, str(error)
            except Error as error:
                state, trouble = WitnessState.REFUSING, str(error)
            except Exception as error:  # noqa: BLE001  a thread that ended would be a witness nobody asks any more
                state, trouble = WitnessState.REFUSING, f"asking it failed: {type(error).__name__}"
            with changed:
                self._settle(state, trouble)
                self.proof = proof
                job.lines.update(lines)
                job.open.discard(self)
                changed.notify_all()
        self.caller.close()

    def _settle(self, state: WitnessState, trouble: str) -> None:
        self.state, self.trouble, self.busy_since = state, trouble, None
        self.failures = self.failures + 1 if trouble else 0
        rest_s = min(2.0 ** min(self.failures - 1, 16), self._host.settings.max_rest_s) if trouble else 0.0
        self.rest_until = time.monotonic() + rest_s

    def _ask(self, job: _Round) -> dict[bytes, Signature]:
        """Send the checkpoint, with a proof from the size the witness has. Raises an Error or _Ahead."""
        old = self.size or 0
        if old > job.size:
            old = 0  # it will tell us again which size it has, if it really is ahead
        for _ in range(_ATTEMPTS):
            proof = tuple(job.prove(old)) if old else ()
            reply = self.caller.post("add-checkpoint", write_request(Request(old, proof, job.note)))
            if reply.status == 200:
                return self._accept(job, reply)
            if reply.status != 409:
                raise InvalidInput(f"it answered {reply.status}")
            told = _told(reply)
            if told > job.size:
                raise _Ahead(told, self._larger(job))
            if told == old:
                raise InvalidInput(f"it refused the size {old} and told the same")
            self.size = old = told
        raise InvalidInput("it tells another size each time")

    def _larger(self, job: _Round) -> bytes:
        """The larger checkpoint it claims to have cosigned, if it shows it and the log itself signed it."""
        keys = [key for key in self._host.logs if key.name == job.origin]
        try:
            reply = self.caller.get(f"{origin_hash(job.origin)}/checkpoint")
            seen = open_checkpoint(reply.body, keys).checkpoint if reply.status == 200 else None
        except Error:
            return b""
        return reply.body if seen is not None and seen.origin == job.origin and seen.size > job.size else b""

    def _accept(self, job: _Round, reply: Reply) -> dict[bytes, Signature]:
        """Cosignatures that hold. One that does not spoils them all: who lies once is not believed."""
        known = {(each.key.name, each.key.id): each for each in self.known}
        found, times = {}, []
        for line in parse_signatures(reply.body):
            who = known.get((line.name, line.id))
            if who is None:
                continue
            stated = check_signature(who.key, job.text, line.data)
            skew_s = (stated or 0) - self._host.clock()
            if not stated or abs(skew_s) > self._host.settings.max_skew_s:
                raise InvalidInput(f"its time is {skew_s:+.0f} s from ours", hint="set both clocks")
            found[who.name] = line
            times.append(stated)
        if not found:
            raise InvalidInput("it signed with no key the trust policy knows")
        self.size, self.time = job.size, max(times)
        return found


class Cosigners:
    """The witnesses of a policy. One caller at a time collects; `status` is for any thread.

    Args:
        policy: Its witnesses are asked at their URLs, its quorum is what is waited for.
        logs: Keys of the log; by default those of the policy. With them a claim to be ahead is checked.
        settings: How long.
        clock: Seconds since the Unix epoch.
        tls: Whom to trust for https; by default what this machine trusts.

    Raises:
        ConfigError: A URL of the policy is none, or is neither https nor of this machine.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        logs: Iterable[VKey] = (),
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self.logs = tuple(logs) or tuple(each.key for each in policy.logs)
        self.changed = threading.Condition()
        self.is_closed = False
        self._policy = policy
        by_url: dict[str, list[Known]] = {}
        for each in policy.witnesses:
            if each.url:
                by_url.setdefault(each.url, []).append(each)
        timeout_s = self.settings.timeout_s
        self._peers = [
            _Peer(known, Caller(url, timeout_s=timeout_s, max_bytes=_MAX_ANSWER_BYTES, tls=tls), self)
            for url, known in by_url.items()
        ]

    def collect(self, note: bytes, prove: Prove) -> Collected:
        """Have a checkpoint cosigned.

        Returns once the quorum is met and a moment has passed for the others, when everybody has answered, or when the
        time is over. What witnesses do is never an error here: it is in the result and in `status`.

        Args:
            note: The checkpoint, signed by its log, without cosignatures.
            prove: Gives the consistency proof to it from any smaller size.

        Raises:
            InvalidInput: It is no checkpoint.
        """
        job = _Round(note, prove)
        began = time.monotonic()
        with self.changed:
            busy = {peer for peer in self._peers if peer.busy_since is not None}
            for peer in self._peers:
                peer.offer(job)
            self.changed.notify_all()
            self._wait(began + self.settings.wait_s, lambda: not job.open or self._is_enough(job))
            if job.open and self._is_enough(job):
                until = min(time.monotonic() + self.settings.linger_s, began + self.settings.wait_s)
                self._wait(until, lambda: job.open <= busy)
            lines = dict(job.lines)
            ahead = [peer for peer in self._peers if peer.state is WitnessState.AHEAD]
            names = tuple(known.name for peer in ahead for known in peer.known)
            proof = next((peer.proof for peer in ahead if peer.proof), b"")
        if lines:
            parsed = parse_note(note)
            note = write_note(parsed.text, (*parsed.signatures, *lines.values()))
        return Collected(note, tuple(lines), is_quorum(self._policy, lines.keys()), names, proof)

    @property
    def status(self) -> tuple[WitnessStatus, ...]:
        """Each witness of the policy, in its order."""
        with self.changed:
            peers = {known.name: peer for peer in self._peers for known in peer.known}
            return tuple(self._status(each, peers.get(each.name)) for each in self._policy.witnesses)

    def close(self) -> None:
        """Ask nobody any more. Requests under way are cut; a thread that looks up a name ends when that does."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        for peer in self._peers:
            peer.caller.close()

    def _status(self, known: Known, peer: _Peer | None) -> WitnessStatus:
        name = known.name.decode(errors="backslashreplace")
        if peer is None:
            return WitnessStatus(
                name=name,
                url="",
                state=WitnessState.SILENT,
                size=None,
                time=None,
                trouble="the trust policy has no URL for it",
                failures=0,
                waiting_s=0.0,
            )
        waiting_s = 0.0 if peer.busy_since is None else time.monotonic() - peer.busy_since
        is_late = waiting_s > self.settings.wait_s
        return WitnessStatus(
            name=name,
            url=known.url,
            state=WitnessState.STALLED if is_late else peer.state,
            size=peer.size,
            time=peer.time,
            trouble=peer.trouble or (f"no answer for {waiting_s:.1f} s" if is_late else ""),
            failures=peer.failures,
            waiting_s=waiting_s,
        )

    def _is_enough(self, job: _Round) -> bool:
        return is_quorum(self._policy, job.lines.keys())

    def _wait(self, until: float, is_over: Callable[[], bool]) -> None:
        self.changed.wait_for(is_over, max(until - time.monotonic(), 0.0))


def _told(reply: Reply) -> int:
    """Size a witness tells with status 409. Raises InvalidInput where it tells none."""
    if reply.content_type.partition(";")[0] != _SIZE_TYPE or len(reply.body) > 32 or not reply.body.endswith(b"\n"):
        raise InvalidInput("it answered 409 without a size")
    return parse_number(reply.body[:-1].decode("ascii", "replace"), "the size a witness tells")
