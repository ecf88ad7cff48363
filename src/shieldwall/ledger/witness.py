# SPDX-License-Identifier: Apache-2.0
"""A witness: it cosigns a log's checkpoint once it is proved to hold everything it has cosigned of that log before.

C2SP tlog-witness, the server side as functions from the bytes of a request to an answer; who listens on a port calls
them. Of every log the last cosigned checkpoint is kept as one object, `witness/<hex SHA-256 of the origin>`. It is
replaced by compare-and-swap before an answer leaves, so that neither a race nor a power cut makes this witness sign two
faces of a log. The first checkpoint of a log is believed; from then on only what is proved. Where a log shows two faces
of one size, both are kept below `witness/forks/` as evidence.

The record must survive: a witness whose record was lost or set back would sign a fork. Whoever restores it from a
backup gives it a new key.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from shieldwall.core.errors import ConfigError, InvalidInput, JournalCorrupt, JournalError, LimitExceeded
from shieldwall.ledger.checkpoint import Checkpoint, parse_checkpoint, parse_number
from shieldwall.ledger.cosignature import check_signature, cosign
from shieldwall.ledger.keys import KeyType, NotVerified, SigningKey, VKey, check_keys, decode_base64, encode_base64
from shieldwall.ledger.merkle import EMPTY_ROOT, HASH_BYTES, MAX_PROOF_HASHES, check_consistency
from shieldwall.ledger.note import (
    MAX_NOTE_BYTES,
    Note,
    Signature,
    parse_note,
    verify_note,
    write_note,
    write_signatures,
)
from shieldwall.ledger.storage import Storage

__all__ = ["MAX_REQUEST_BYTES", "Answer", "Request", "Witness", "origin_hash", "parse_request", "write_request"]

MAX_REQUEST_BYTES: Final = 4096 + MAX_NOTE_BYTES
"""Greatest body of a request: the old size, 63 hashes of 45 bytes, and a checkpoint."""

_TEXT: Final = "text/plain; charset=utf-8"
_SIZE: Final = "text/x.tlog.size"

_FORKS = "witness/forks"
_MAX_TEXT_BYTES = 65_536
_MAX_ORIGIN_BYTES = 255
"""What the structure that ML-DSA signs has room for."""

_CLOCK_STEP_S = 60
"""How far the clock may have been set back since the last cosignature. Further, it is not known what time it is."""

_TRIES = 16
"""How often a request starts anew because another one of the same size was faster."""


class Request(msgspec.Struct, frozen=True):
    """The body of an add-checkpoint request, read; nothing in it is verified."""

    old_size: int
    """Size of what the log believes this witness cosigned last."""
    proof: tuple[bytes, ...]
    """Consistency proof from there, at most 63 hashes."""
    checkpoint: bytes
    """The signed note."""


class Answer(msgspec.Struct, frozen=True):
    """What to answer over HTTP."""

    status: int
    content_type: str
    body: bytes


class _Refused(Exception):
    """Stop, and answer this."""

    def __init__(self, status: int, reason: str, content_type: str = _TEXT) -> None:
        super().__init__(reason)
        self.answer = Answer(status, content_type, f"{reason}\n".encode())


class _Record(msgspec.Struct, frozen=True):
    """What was cosigned last."""

    data: bytes | None = None
    checkpoint: Checkpoint = Checkpoint("none", 0, EMPTY_ROOT)
    time: int = 0


def parse_request(data: bytes) -> Request:
    """Read the body of an add-checkpoint request.

    Raises:
        InvalidInput: It is none; LimitExceeded where it is too long. The checkpoint was only found, not read.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise LimitExceeded(f"the request is over {MAX_REQUEST_BYTES} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    if not blank:
        raise InvalidInput("the request has no empty line before the checkpoint")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise InvalidInput("the request has letters outside ASCII before the checkpoint") from None
    word, space, number = first.partition(" ")
    if word != "old" or not space:
        raise InvalidInput("the first line of the request is not `old` and a size")
    if len(lines) > MAX_PROOF_HASHES:
        raise LimitExceeded(f"the request has over {MAX_PROOF_HASHES} lines of proof")
    proof = []
    for place, line in enumerate(lines, 1):
        digest = decode_base64(line)
        if digest is None or len(digest) != HASH_BYTES:
            raise InvalidInput(f"line {place} of the proof is not base64 of {HASH_BYTES} bytes")
        proof.append(digest)
    return Request(parse_number(number, "the old size"), tuple(proof), checkpoint)


def write_request(request: Request) -> bytes:
    """Write the body of an add-checkpoint request. Raises InvalidInput where `parse_request` would not take it."""
    lines = [f"old {request.old_size}", *map(encode_base64, request.proof), "", ""]
    data = "\n".join(lines).encode() + request.checkpoint
    if parse_request(data) != request:
        raise InvalidInput("the request could not be read back as it is")
    return data


def origin_hash(origin: str) -> str:
    """Name of a log's record, and its part of the monitoring path: lower-case hex of SHA-256 over the origin."""
    return hashlib.sha256(origin.encode()).hexdigest()


class Witness:
    """Cosigns the checkpoints of the logs it was told to watch. Safe from any thread, and beside other processes.

    Args:
        storage: Holds the records, durable before an answer leaves; below `witness/`.
        logs: Origin of each log and the keys it signs with, of type 01 or 06.
        keys: This witness's own, of type 04 and 06; each cosigns every checkpoint.
        clock: Seconds since the Unix epoch.

    Raises:
        ConfigError: The keys cannot be trusted together, are of a wrong type, or missing; or an origin is too long.
    """

    def __init__(
        self,
        storage: Storage,
        logs: Mapping[str, Sequence[VKey]],
        keys: Sequence[SigningKey],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        own = check_keys(key.key for key in keys)
        if not own or len(own) != len(keys) or any(key.type is KeyType.NOTE for key in own):
            raise ConfigError("a witness has keys of type 04 and 06, each once")
        for origin, known in logs.items():
            _check_log(origin, known, own)
        self._storage = storage
        self._logs = {origin: tuple(known) for origin, known in logs.items()}
        self._paths = {origin_hash(origin): origin for origin in logs}
        self._keys = tuple(keys)
        self._own = own
        self._clock = clock
        self._lock = threading.Lock()
        self._trouble: dict[str, str] = {}

    @property
    def trouble(self) -> dict[str, str]:
        """Why logs are not cosigned although they asked in the right way, by origin; for the health page.

        It names logs that showed two faces as well as a disk that failed. An entry goes when a checkpoint is cosigned.
        """
        with self._lock:
            return dict(self._trouble)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer `POST <submission prefix>/add-checkpoint`.

        Returns:
            200 and the signature lines; the checkpoint is on record by then. 400 not readable, or the old size is over
            the size. 403 no trusted signature, or one that fails. 404 unknown origin. 409 the old size is not the
            recorded one; the body says which is. 422 the proof fails, or there are two roots of one size. 500 the
            record cannot be read or written; 503 the clock is wrong. Nothing was signed unless it is 200.
        """
        try:
            request, note, checkpoint = _read(body)
            return self._cosign(request, self._signed(note, checkpoint.origin), checkpoint)
        except _Refused as refused:
            return refused.answer

    def latest(self, name: str) -> Answer:
        """Answer `GET <monitoring prefix>/<name>/checkpoint`, where the name is the `origin_hash`.

        Returns:
            200 and the last cosigned checkpoint, with the log's signatures and ours; it is never behind. 404 where the
            log is not known or nothing was cosigned yet. 500 where the record cannot be read.
        """
        origin = self._paths.get(name)
        if origin is None:
            return Answer(404, _TEXT, b"this log is not known here\n")
        try:
            record = self._recall(origin)
        except _Refused as refused:
            return refused.answer
        if record.data is None:
            return Answer(404, _TEXT, b"no checkpoint of this log was cosigned yet\n")
        return Answer(200, _TEXT, record.data)

    def _signed(self, note: Note, origin: str) -> Note:
        """Verify the signatures of the log, and keep them alone: what else was sent is not ours to hand on."""
        known = self._logs.get(origin)
        if known is None:
            raise _Refused(404, "this log is not known here")
        try:
            verified = verify_note(note, known, check_signature)
        except NotVerified as error:
            raise _Refused(403, str(error)) from None
        ids = {(each.key.name, each.key.id) for each in verified}
        lines = {(each.name, each.id): each for each in note.signatures if (each.name, each.id) in ids}
        return Note(note.text, tuple(lines.values()))

    def _cosign(self, request: Request, note: Note, checkpoint: Checkpoint) -> Answer:
        """Compare with the record, prove, sign, record, and only then answer."""
        origin = checkpoint.origin
        if request.old_size > checkpoint.size:
            raise _Refused(400, "the old size is over the size of the checkpoint")
        for _ in range(_TRIES):
            record = self._recall(origin)
            if record.checkpoint.size != request.old_size:
                raise _Refused(409, str(record.checkpoint.size), _SIZE)
            old, new = record.checkpoint, checkpoint
            try:
                check_consistency(old.size, old.root, new.size, new.root, request.proof)
            except InvalidInput as error:
                if record.data is not None and old.size == new.size and old.root != new.root:
                    self._keep_fork(origin, record.data, write_note(note.text, note.signatures))
                    self._note_trouble(origin, f"it signed two roots for {new.size} entries")
                raise _Refused(422, str(error)) from None
            lines = self._sign(note.text, record.time)
            data = write_note(note.text, (*note.signatures, *lines))
            try:
                won = self._storage.compare_and_swap(_path(origin), record.data, data)
            except (JournalError, LimitExceeded) as error:
                # Either record may stand now. No signature has left, so either is right.
                raise self._broken(origin, error) from None
            if won:
                with self._lock:
                    self._trouble.pop(origin, None)
                return Answer(200, _TEXT, write_signatures(lines))
        raise _Refused(503, "too many requests for this log at once")

    def _sign(self, text: bytes, last: int) -> list[Signature]:
        """Cosign. A later statement never has an earlier time, or the two would contradict each other."""
        now = int(self._clock())
        if now < 1 or last - now > _CLOCK_STEP_S:
            raise _Refused(503, "the clock of this witness was set back")
        return [cosign(text, key, max(now, last)) for key in self._keys]

    def _recall(self, origin: str) -> _Record:
        """What was cosigned last. A record that cannot be read is never taken for none."""
        try:
            data = self._storage.read(_path(origin))
            if data is None:
                return _Record()
            note = parse_note(data)
            checkpoint = parse_checkpoint(note.text)
            # After a change of keys no line is ours; then the time is not known, and the rest stands as it is.
            ids = {(key.name, key.id) for key in self._own}
            ours = tuple(each for each in note.signatures if (each.name, each.id) in ids)
            verified = verify_note(Note(note.text, ours), self._own, check_signature) if ours else ()
        except InvalidInput as error:
            raise self._broken(origin, JournalCorrupt(f"the record is damaged: {error}")) from None
        except JournalError as error:
            raise self._broken(origin, error) from None
        if checkpoint.origin != origin:
            raise self._broken(origin, JournalCorrupt("the record is that of another log"))
        return _Record(data, checkpoint, max((each.time or 0 for each in verified), default=0))

    def _keep_fork(self, origin: str, recorded: bytes, presented: bytes) -> None:
        """Keep the two faces of a log, the first time: both signed by it, they need no other witness."""
        folder = f"{_FORKS}/{origin_hash(origin)}"
        with contextlib.suppress(JournalError):
            self._storage.write_many({f"{folder}/recorded": recorded, f"{folder}/presented": presented})

    def _broken(self, origin: str, error: Exception) -> _Refused:
        self._note_trouble(origin, str(error))
        return _Refused(500, "this witness cannot read or write its record")

    def _note_trouble(self, origin: str, what: str) -> None:
        with self._lock:
            self._trouble[origin] = what


def _read(body: bytes) -> tuple[Request, Note, Checkpoint]:
    try:
        request = parse_request(body)
        note = parse_note(request.checkpoint)
        # An empty log with a wrong root has a status of its own, after the signature was looked at.
        checkpoint = parse_checkpoint(note.text, any_empty_root=True)
    except InvalidInput as error:
        raise _Refused(400, str(error)) from None
    if len(note.text) > _MAX_TEXT_BYTES:
        raise _Refused(400, f"the text of the checkpoint is over {_MAX_TEXT_BYTES} bytes")
    return request, note, checkpoint


def _check_log(origin: str, known: Sequence[VKey], own: Sequence[VKey]) -> None:
    check_keys((*known, *own))
    if not known or any(key.type is KeyType.COSIGNATURE for key in known):
        raise ConfigError("a log to be watched has keys of type 01 or 06")
    if not {key.public for key in known}.isdisjoint(key.public for key in own):
        raise ConfigError("a log to be watched has the key of this witness", hint="a log is not its own witness")
    Checkpoint(origin, 0, EMPTY_ROOT)
    if len(origin.encode()) > _MAX_ORIGIN_BYTES:
        raise ConfigError(f"the origin of a log to be watched is over {_MAX_ORIGIN_BYTES} bytes")


def _path(origin: str) -> str:
    return f"witness/{origin_hash(origin)}"
