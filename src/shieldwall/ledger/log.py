# SPDX-License-Identifier: Apache-2.0
"""The log: it integrates what the journal has made durable, checks it, signs it once, and proves it to anyone.

The order is the promise. Tiles and bundles are made durable; they are read back and hashed again; the register is
replaced as one step; then the checkpoint is signed, then it is shown. So a crash at any moment leaves no signature
without durable tiles, never two checkpoints of one size, never a smaller one: what the register has is signed again, or
continued. Whatever does not fit the register ends in `LogRefused` and is not signed over.

One process signs for a log. The lock of the data directory sees to that, and the compare-and-swap of the register once
more, for copies of the directory.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from shieldwall.core.errors import Error, InvalidInput, JournalCorrupt, JournalError
from shieldwall.ledger.checkpoint import Checkpoint, check_origin, parse_checkpoint
from shieldwall.ledger.cosignature import sign_checkpoint
from shieldwall.ledger.integrate import Edge, check_journal, check_written, gather, integrate, load_edge
from shieldwall.ledger.journal import Journal
from shieldwall.ledger.keys import SigningKey
from shieldwall.ledger.merkle import Hasher, check_inclusion, prove_consistency, prove_inclusion
from shieldwall.ledger.merkle_hasher import make_hasher
from shieldwall.ledger.note import parse_note
from shieldwall.ledger.proof_file import ProofFile, write_proof
from shieldwall.ledger.published import WITNESSED, Published, load_published, merged
from shieldwall.ledger.register import (
    CHECKPOINT,
    REGISTER,
    LogRefused,
    Register,
    Shard,
    check_log_keys,
    close_shard,
    doubled,
    key_ids,
    next_shard,
    read_register,
)
from shieldwall.ledger.storage import Storage
from shieldwall.ledger.tiles import WIDTH, TileReader
from shieldwall.ledger.trust import Policy

__all__ = ["Log", "Status", "Witness"]

Witness = Callable[[bytes, int], Sequence[bytes]]
"""Collects cosignatures: given the signed checkpoint and its size, it gives the signature lines of a quorum, or none as
long as no quorum has answered. `Log.consistency(old, size)` has the proofs the witnesses ask for. It raises LogRefused
where a witness has shown that it saw more of this log, or another one of its name."""

_STEP_ENTRIES = 32_768
_STEP_BYTES = 32 << 20
"""A step of either size takes a good second on a slow disk, and about four times its bytes in memory."""

_PROMISE_S = 30.0
_JOIN_S = 5.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far the log has come. Sequenced >= published >= witnessed."""

    origin: str
    sequenced: int
    """Entries that are durable in the journal, and so have their place."""
    published: int
    """Entries under the newest signed checkpoint that is served."""
    witnessed: int
    """Entries under the newest checkpoint that a quorum has cosigned; 0 where nobody is asked."""
    age: float
    """Seconds since the log last stood where the journal stood."""
    witness_age: float
    """Seconds since the newest checkpoint was witnessed, while one waits for witnesses; 0 where none does."""
    error: str
    """Why the last attempt to publish failed; empty where it did not."""
    witness_error: str
    """Why the last attempt to collect cosignatures failed; empty where it did not."""
    refused: bool
    """Whether nothing is signed any more until a person has looked into `error`."""


class _State(msgspec.Struct, frozen=True):
    """What is known to stand on the disk."""

    register: Register
    data: bytes
    """The bytes of the register."""
    edge: Edge


class Log:
    """A tiled log over a journal. Every method may be called from any thread; one publishes at a time.

    Args:
        journal: Its entries are the leaves: journal index = leaf index.
        tiles: Storage of DATA/ledger.
        register: Storage of DATA, which holds the register.
        origin: Name of the log.
        keys: What it signs with, named like the origin: Ed25519 (01), and ML-DSA-44 (06) beside it.
        clock: Seconds since the Unix epoch.
        hasher: Hashes the tree; by default the fastest on this machine, which takes seconds to load.
        discard: Removes the partial forerunners of full tiles, `PosixStorage.discard_partials`; None keeps them.
        witness: Collects cosignatures; None where nobody is asked.
        policy: What has to hold of a checkpoint to count as witnessed; None takes what `witness` gives.
        seen: Greatest size of this log that anyone outside has seen, None where nobody answers. Asked once, here: it
            is the only way to notice that the whole data directory came from a backup.
        step_entries: Entries integrated in one step.
        step_bytes: Bytes of entries integrated in one step.

    Raises:
        LogRefused: Register, tiles, journal and keys do not belong together. The message says which and what to do.
        ConfigError: The keys are not those of a log.
    """

    def __init__(  # noqa: PLR0913  what a log rests on, and three hooks
        self,
        journal: Journal,
        tiles: Storage,
        register: Storage,
        *,
        origin: str,
        keys: Sequence[SigningKey],
        clock: Callable[[], float] = time.time,
        hasher: Hasher | None = None,
        discard: Callable[[Iterable[str]], None] | None = None,
        witness: Witness | None = None,
        policy: Policy | None = None,
        seen: Callable[[], int | None] | None = None,
        step_entries: int = _STEP_ENTRIES,
        step_bytes: int = _STEP_BYTES,
    ) -> None:
        """Read register and tiles and hold them against each other; nothing is written."""
        self._origin = check_origin(origin)
        self._vkeys = check_log_keys(origin, [key.key for key in keys])
        self._keys = tuple(keys)
        self._journal, self._tiles, self._register = journal, tiles, register
        self._clock = clock
        self._hasher = hasher or make_hasher()
        self._discard = discard
        self._witness, self._policy = witness, policy
        self._most, self._most_bytes = max(step_entries, WIDTH), step_bytes
        self._lock = threading.Lock()
        self._collecting = threading.Lock()
        self._reader = TileReader(tiles.read, hasher=self._hasher)
        self._refusal: LogRefused | None = None
        self._error = self._witness_error = ""
        self._current: Published | None = None
        self._witnessed: Published | None = None
        self._served: bytes | None = None
        self._served_witnessed: bytes | None = None
        self._level_at = self._quorum_at = time.monotonic()
        self._state: _State | None = self._open()
        highest = seen() if seen is not None else None
        if highest is not None and highest > self._state.register.shard.size:
            raise LogRefused(
                f"others have seen {highest} entries of this log, its register has {self._state.register.shard.size}",
                hint="the data directory is from a backup: restore the newest, or go on as a new shard with new keys",
            )

    def publish(self) -> int:
        """Bring the log to where the journal stands now, in steps, each signed. Returns the size that is published.

        Does nothing where there is nothing new. After an error the next call starts from what is on the disk.

        Raises:
            LogRefused: Something does not fit the register; nothing is signed until the log is opened again.
            JournalError: The disk refused.
        """
        with self._lock:
            self._check_refusal()
            state, self._state = self._state, None
            try:
                state = state or self._open()
                target = self._journal.size
                state = self._settle(state)
                while state.edge.size < target:
                    state = self._grow(state, target)
            except JournalCorrupt as error:
                raise self._refuse(LogRefused(str(error), hint=error.hint)) from error
            except LogRefused as error:
                raise self._refuse(error) from None
            except Error as error:
                self._error = str(error)
                raise
            self._state = state
            self._error = ""
            self._level_at = time.monotonic()
            return state.edge.size

    def collect(self) -> int:
        """Ask the witnesses about the newest checkpoint, and show it with their cosignatures. May take its time.

        It is kept at `checkpoint.witnessed`, and replaces the log's own at `checkpoint` while that is still the newest.

        Returns:
            The size that is witnessed.

        Raises:
            LogRefused: A witness has seen another log of this name, or somebody else replaced a checkpoint.
            InvalidInput: What the witnesses gave is no signature or no quorum. JournalError: the disk refused.
        """
        with self._collecting:
            current, witnessed = self._current, self._witnessed
            held = witnessed.size if witnessed else 0
            if self._witness is None or current is None or (witnessed and witnessed.size == current.size):
                return held
            try:
                lines = self._witness(current.note, current.size)
                if not lines:
                    self._witness_error = "no quorum of the witnesses has answered"
                    return held
                note = merged(current.note, lines, self._vkeys, self._policy)
                with self._lock:
                    self._check_refusal()
                    self._show_witnessed(current, note)
            except LogRefused as error:
                self._refuse(error)
                raise
            except Error as error:
                self._witness_error = str(error)
                raise
            self._witness_error = ""
            self._quorum_at = time.monotonic()
            return current.size

    def run(self, stop: threading.Event, every: float = 1.0, before: Callable[[], object] | None = None) -> None:
        """Publish until told to stop or refused, and collect cosignatures in a thread beside it.

        Args:
            stop: Ends it, after one more publication.
            every: Seconds from one publication to the next.
            before: Called before each publication, such as `Hours.turn`. An error of it is shown in the status.
        """
        helper = threading.Thread(target=self._collect_until, args=(stop, every), name="witness", daemon=True)
        if self._witness is not None:
            helper.start()
        more = True
        while more and self._refusal is None:
            began = time.monotonic()
            failure = _failure(before) if before is not None else ""
            failure = _failure(self.publish) or failure
            self._error = self._error or failure
            # What came while it was told to stop is published too.
            more = not stop.is_set()
            if more:
                stop.wait(max(every - (time.monotonic() - began), 0))
        if helper.ident is not None:
            helper.join(_JOIN_S if stop.is_set() else every)

    def proof(self, index: int) -> bytes | None:
        """Receipt of an entry, a `.tlog-proof` file, or None as long as no checkpoint covers it.

        It is under the newest witnessed checkpoint that covers the entry, else under the newest one.

        Raises:
            InvalidInput: The index is negative. JournalCorrupt: The tiles do not prove it; somebody changed them.
        """
        if index < 0:
            raise InvalidInput("the index of an entry is not negative")
        found = next((each for each in (self._witnessed, self._current) if each and index < each.size), None)
        if found is None:
            return None
        read = self._reader.at(found.size)
        hashes = prove_inclusion(index, found.size, read)
        try:
            check_inclusion(read([(0, index)])[0], index, found.size, found.root, hashes)
        except InvalidInput:
            raise _unproved(f"entry {index}", found.size) from None
        return write_proof(ProofFile(index, tuple(hashes), found.note))

    def consistency(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Prove that the log began with its first `old_size` entries: what a witness or a monitor asks for.

        Args:
            old_size: What they have seen.
            size: Of a published checkpoint; by default the newest.

        Raises:
            InvalidInput: The sizes are not in order, or the greater one is not published.
        """
        current = self._current
        published = current.size if current else 0
        size = published if size is None else size
        if size > published:
            raise InvalidInput(f"{size} entries are not published, {published} are")
        return prove_consistency(old_size, size, self._reader.at(size))

    def rotate(self, origin: str, keys: Sequence[SigningKey], entry: tuple[bytes, bytes]) -> Register:
        """Announce new keys under the old ones, and close the shard. This object signs no more; open a new `Log`.

        Args:
            origin: Of the new shard, such as the old one with another suffix.
            keys: Of the new shard.
            entry: Entry and opening of type `key.rotate`, see `rotation.seal_rotation`. It is published under the old
                keys, so that whoever trusts them learns the new ones from the log itself.

        Raises:
            LogRefused: As `publish`. ConfigError: Origin or keys are not those of a new shard; nothing was appended.
        """
        vkeys = [key.key for key in keys]
        next_shard(read_register(self._register)[0], origin=origin, keys=vkeys, time=int(self._clock()))
        self._journal.append(*entry).result(_PROMISE_S)
        self.publish()
        with self._lock:
            self._check_refusal()
            register = close_shard(self._register, origin=origin, keys=vkeys, time=int(self._clock()))
            self._refuse(LogRefused(f"this shard is closed, the log goes on as {origin}", hint="open the new shard"))
            return register

    @property
    def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint as it is served, None before the first."""
        return self._served if self._current else None

    def status(self) -> Status:
        """How far the log has come, for the health page and the metrics."""
        current, witnessed = self._current, self._witnessed
        now = time.monotonic()
        waits = self._witness is not None and current is not None and (not witnessed or witnessed.size < current.size)
        return Status(
            origin=self._origin,
            sequenced=self._journal.size,
            published=current.size if current else 0,
            witnessed=witnessed.size if witnessed else 0,
            age=now - self._level_at,
            witness_age=now - self._quorum_at if waits else 0.0,
            error=str(self._refusal) if self._refusal else self._error,
            witness_error=self._witness_error,
            refused=self._refusal is not None,
        )

    def _open(self) -> _State:
        """Compute the state anew from register and tiles, and hold everything against it."""
        register, data = read_register(self._register)
        self._check_owner(register)
        size = register.shard.size
        # Tiles read before may not be what lies there now.
        reader = TileReader(self._tiles.read, hasher=self._hasher)
        try:
            edge = load_edge(reader, size)
            if edge.root != register.shard.root:
                raise LogRefused(
                    f"the tiles in DATA/ledger have another root than the register at size {size}",
                    hint="a tile was changed or is another log's: compare with the journal or a mirror, sign nothing",
                )
            check_journal(self._journal, reader, size, self._hasher)
            current, served = load_published(self._tiles, CHECKPOINT, register, self._vkeys, reader)
            witnessed, served_witnessed = load_published(self._tiles, WITNESSED, register, self._vkeys, reader)
        except JournalCorrupt as error:
            raise LogRefused(
                f"the register is ahead of the tiles: it has size {size}, but {error}",
                hint="DATA/ledger is from an older backup or was cut: restore the newest one, or a mirror's copy",
            ) from error
        self._reader = reader
        self._current, self._served = current, served
        self._witnessed, self._served_witnessed = witnessed, served_witnessed
        return _State(register, data, edge)

    def _check_owner(self, register: Register) -> None:
        shard, ids = register.shard, key_ids(self._vkeys)
        if (shard.origin, shard.keys) == (self._origin, ids):
            return
        if any(each.origin == self._origin for each in register.closed):
            raise LogRefused(
                f"the shard {self._origin} is closed, the log goes on as {shard.origin}",
                hint="open it with the origin and the keys of the new shard",
            )
        raise LogRefused(
            f"the register is that of {shard.origin} with the keys {', '.join(shard.keys)}, "
            f"not of {self._origin} with {', '.join(ids)}",
            hint="put back the keys in DATA/keys, or rotate to new ones",
        )

    def _settle(self, state: _State) -> _State:
        """Sign what the register has where that was not shown yet: the first time, or after a crash."""
        if self._current is None or self._current.size < state.edge.size:
            self._sign(state.register)
        return state

    def _grow(self, state: _State, target: int) -> _State:
        """One step: write, read back, register, sign, show."""
        bundles = gather(self._journal, state.edge.size, target, most=self._most, most_bytes=self._most_bytes)
        step = integrate(state.edge, bundles, self._hasher)
        self._tiles.write_many({**step.bundles, **step.hash_tiles})
        check_written(self._tiles.read, state.edge, step, self._hasher)
        if self._discard is not None:
            # Before the register is replaced, so that a crash in between comes by here again and nothing is left over.
            self._discard(step.full)
        old = state.register
        shard = Shard(old.shard.origin, step.edge.size, step.edge.root, old.shard.keys)
        register = Register(shard, max(int(self._clock()), old.time), old.closed)
        data = register.data
        if not self._register.compare_and_swap(REGISTER, state.data, data):
            raise doubled()
        self._sign(register)
        return _State(register, data, step.edge)

    def _sign(self, register: Register) -> None:
        """Sign what the register has, and show it. The only place that signs."""
        shard = register.shard
        if self._served is not None and self._current is None:
            # Of a closed shard, as it was left: kept by its number, from 1.
            origin = parse_checkpoint(parse_note(self._served).text).origin
            number = 1 + [each.origin for each in register.closed].index(origin)
            self._tiles.write_many({f"shards/{number}/checkpoint": self._served})
        note = sign_checkpoint(Checkpoint(shard.origin, shard.size, shard.root), self._keys, register.time)
        self._show(note)
        self._current = Published(shard.size, shard.root, note)

    def _show(self, note: bytes) -> None:
        if not self._tiles.compare_and_swap(CHECKPOINT, self._served, note):
            raise doubled()
        self._served = note

    def _show_witnessed(self, current: Published, note: bytes) -> None:
        """Keep it by its own path; the log's own may have grown on meanwhile, and never becomes smaller again."""
        # Where the disk refuses, nobody knows which of the two stands there: the next publication reads it again.
        if (state := self._state) is None:
            raise JournalError("the log failed to publish, and has to read again what stands on the disk")
        self._state = None
        if not self._tiles.compare_and_swap(WITNESSED, self._served_witnessed, note):
            raise doubled()
        self._served_witnessed = note
        self._witnessed = Published(current.size, current.root, note)
        if self._current is current:
            self._show(note)
            self._current = self._witnessed
        self._state = state

    def _check_refusal(self) -> None:
        if self._refusal is not None:
            # A new one each time: a raised exception collects the traceback of whom it passes.
            raise LogRefused(str(self._refusal), hint=self._refusal.hint)

    def _refuse(self, error: LogRefused) -> LogRefused:
        self._refusal = self._refusal or error
        self._error = str(error)
        return error

    def _collect_until(self, stop: threading.Event, every: float) -> None:
        while not stop.wait(every) and self._refusal is None:
            self._witness_error = _failure(self.collect) or self._witness_error


def _failure(call: Callable[[], object]) -> str:
    """Call it, and say why it failed; empty where it did not."""
    try:
        call()
    except Error as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  a hook is not ours, and its failure must not end the runner
        return f"an error of type {type(error).__name__}"
    return ""


def _unproved(what: str, size: int) -> JournalCorrupt:
    return JournalCorrupt(
        f"the tiles do not prove {what} under the checkpoint of size {size}",
        hint="a tile was changed: verify the log and restore it from a mirror",
    )
