# SPDX-License-Identifier: Apache-2.0
"""One line of the log: who decided what about which event, with everything private behind a salted commitment.

Format v1, `docs/formats/entry.md`. An entry is public for as long as the log is kept; its opening stays with the
operator and discloses single fields later. The caller gives time and the secret: core has no clock and no randomness.

Client text never enters an entry in the clear. The strings that do are words and ids the node made, with one exception:
`model` is what the client asked for, because a log that cannot say which model was guarded proves little. It is bounded
to 128 code points, so that it cannot carry a prompt.
"""

import enum
import functools
import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shieldwall.core.codec import MAX_INTEGER, Value, canonical, parse
from shieldwall.core.errors import InvalidInput, LimitExceeded

__all__ = [
    "MAX_ENTRY_BYTES",
    "MAX_MODEL_CHARS",
    "SALT_BYTES",
    "SECRET_BYTES",
    "Entry",
    "EntryType",
    "check_field",
    "check_findings",
    "open_field",
    "open_findings",
    "read_entry",
    "seal_entry",
]

MAX_ENTRY_BYTES = 4096
"""Greatest entry. A field costs 70 bytes and its name, so about 45 fields fit."""

MAX_MODEL_CHARS = 128
"""Greatest model name, code points: the longest in use are about 90, and less than a paragraph fits."""

SECRET_BYTES = 32
SALT_BYTES = 16
"""128 bits: a commitment to a guessable value cannot be tried out without its salt."""

_MAX_ID_CHARS = 128
_MILLION = 1_000_000
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,31}")
_WORD = re.compile(r"[a-z_]{0,16}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")

_FINDINGS = b"findings"


class EntryType(enum.StrEnum):
    """What an entry records. The one registry: a control names the types it reads, and a new one is added here."""

    DECISION_REQUEST = "decision.request"
    """A verdict about what goes to the model."""
    DECISION_RESPONSE = "decision.response"
    """A verdict about what came back from the model."""
    DECISION_TOOL = "decision.tool"
    """A verdict about one tool call or its result."""
    POLICY_PROPOSE = "policy.propose"
    """A policy set was put forward."""
    POLICY_APPROVE = "policy.approve"
    """A person approved a proposed policy set."""
    POLICY_PUBLISH = "policy.publish"
    """A policy set began to decide on this node."""
    POLICY_ROLLBACK = "policy.rollback"
    """An earlier policy set was put back."""
    KEY_CREATE = "key.create"
    """An API key or a signing key was made."""
    KEY_USE = "key.use"
    """A key opened or signed something that is not a request."""
    KEY_ROTATE = "key.rotate"
    """A key was replaced by a new one."""
    KEY_REVOKE = "key.revoke"
    """A key stopped being accepted."""
    MODEL_SEAL = "model.seal"
    """A model artefact was signed or encrypted."""
    MODEL_SCAN = "model.scan"
    """A model artefact was searched for code."""
    MODEL_LOAD = "model.load"
    """A model artefact was verified in order to load it; `action` says whether it was."""
    EXCHANGE_OUT = "exchange.out"
    """An object was given to other members."""
    EXCHANGE_IN = "exchange.in"
    """An object came from another member."""
    EXCHANGE_ACTIVATE = "exchange.activate"
    """An indicator from outside began to count here."""
    EXCHANGE_SIGHTING = "exchange.sighting"
    """An indicator was seen here."""
    CAMPAIGN_OPEN = "campaign.open"
    """Events of several principals were found to belong together."""
    CAMPAIGN_MEMBER = "campaign.member"
    """A principal or an event was counted to a campaign."""
    CAMPAIGN_CLOSE = "campaign.close"
    """A campaign is over."""
    HOLD_SET = "hold.set"
    """A message waits for a person."""
    HOLD_RELEASE = "hold.release"
    """A person let a held message pass."""
    HOLD_REFUSE = "hold.refuse"
    """A person refused a held message."""
    HOLD_EXPIRE = "hold.expire"
    """Nobody decided in time."""
    INCIDENT_OPEN = "incident.open"
    """An incident was opened; legal clocks run from here."""
    INCIDENT_CLASSIFY = "incident.classify"
    """An incident was given its class or severity."""
    INCIDENT_REPORT = "incident.report"
    """A report about an incident left the house."""
    INCIDENT_CLOSE = "incident.close"
    """An incident was closed."""
    LEDGER_INIT = "ledger.init"
    """The log begins."""
    LEDGER_APPEND = "ledger.append"
    """An operator appended a line of their own."""
    LEDGER_CHECKPOINT = "ledger.checkpoint"
    """A checkpoint was signed."""
    LEDGER_COSIGNATURE = "ledger.cosignature"
    """A witness cosigned a checkpoint."""
    LEDGER_HOUR = "ledger.hour"
    """How many decisions an hour held, and in which entries: nothing of it can be left out unnoticed."""
    LEDGER_GAP = "ledger.gap"
    """For a time decisions could not be recorded."""
    LEDGER_DISCLOSE = "ledger.disclose"
    """A field of an entry was disclosed to someone."""
    LEDGER_ERASE = "ledger.erase"
    """The openings or the content of a subject were destroyed."""
    LEDGER_EXPORT = "ledger.export"
    """Evidence was exported."""
    NODE_START = "node.start"
    """A node began to serve."""
    NODE_STOP = "node.stop"
    """A node stopped as told."""
    NODE_SELFTEST = "node.selftest"
    """Detectors were tried on their known-bad examples; `action` says how it went."""
    EVIDENCE_POSTED = "evidence.posted"
    """An operator added a signed event of their own."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry as read back. The members stand in canonical order."""

    action: str
    """A word of `Action`, another lower-case word where the type has its own, or empty."""
    event: str
    """Id of the event or object it is about."""
    fields: dict[str, str]
    """Name to commitment, hex SHA-256."""
    findings: str
    """Commitment to the findings, hex SHA-256."""
    model: str
    """Model the client asked for: the only client text in the clear."""
    node: str
    """Name of the node in the log."""
    policy: str
    """Hex digest of the policy set that decided; empty where none did."""
    score: int
    """Probability of attack in millionths."""
    subject: str
    """Pseudonym of the principal; empty where there is none."""
    time: int
    """Microseconds since the Unix epoch."""
    type: EntryType
    v: int = 1
    """Version of the format. Written always, and no other is read."""


class _Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fields: dict[str, Any]
    findings: list[Any]
    secret: str
    v: int


_ENCODER = msgspec.json.Encoder(order="sorted")
_ENTRY = msgspec.json.Decoder(Entry)


def seal_entry(  # noqa: PLR0913  one argument per member of the format
    *,
    type: EntryType,  # noqa: A002  the name of the member in the format
    time: int,
    node: str,
    event: str,
    subject: str,
    policy: str,
    model: str,
    action: str,
    score: int,
    findings: Sequence[Mapping[str, Value]],
    fields: Mapping[str, Value],
    secret: bytes,
) -> tuple[bytes, bytes]:
    """Write an entry and its opening.

    Args:
        type: What is recorded.
        time: Microseconds since the Unix epoch.
        node: Name of the node. It and the next three are ids the node made: printable ASCII, at most 128 characters.
        event: Id of the event or object the entry is about.
        subject: Pseudonym of the principal, or empty.
        policy: Hex digest of the policy set that decided, or empty.
        model: What the client asked for, at most 128 code points.
        action: A lower-case word, at most 16 characters, or empty.
        score: Millionths, 0 to 1,000,000.
        findings: Plain objects. A float `score` in one is written in millionths, like the entry's own.
        fields: Name (`[a-z][a-z0-9_.]*`, at most 32 characters) to value; only commitments reach the entry.
        secret: 32 unpredictable bytes, new for each entry.

    Returns:
        The entry, canonical bytes, and its opening, which holds the secret and all values: never publish it.

    Raises:
        InvalidInput: Something does not fit the format; LimitExceeded where it is too long. Nothing is ever shortened.
    """
    _check_words(type, time, node, event, subject, policy, model, action, score)
    _check_secret(secret)
    stated = canonical([_plain_finding(finding) for finding in findings])
    commitments, values = {}, {}
    for name, value in fields.items():
        data = canonical(value)
        commitments[name] = _commitment(data, _salt(secret, _label(name)))
        values[name] = msgspec.Raw(data)
    entry = _ENCODER.encode(
        Entry(
            action=action,
            event=event,
            fields=commitments,
            findings=_commitment(stated, _salt(secret, _FINDINGS)),
            model=model,
            node=node,
            policy=policy,
            score=score,
            subject=subject,
            time=time,
            type=type,
        )
    )
    if len(entry) > MAX_ENTRY_BYTES:
        raise LimitExceeded(f"an entry of {len(entry)} bytes is over {MAX_ENTRY_BYTES}", hint="commit to fewer fields")
    # The values are canonical bytes already, so joining them in order gives canonical bytes.
    opening = _ENCODER.encode({"fields": values, "findings": msgspec.Raw(stated), "secret": secret.hex(), "v": 1})
    return entry, opening


def read_entry(entry: bytes) -> Entry:
    """Read an entry, and refuse every other writing of the same content.

    Raises:
        InvalidInput: Not an entry of format v1 in canonical form.
    """
    if len(entry) > MAX_ENTRY_BYTES:
        raise LimitExceeded(f"an entry of {len(entry)} bytes is over {MAX_ENTRY_BYTES}")
    try:
        read = _ENTRY.decode(entry)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidInput("not a log entry") from None
    _check_words(
        read.type, read.time, read.node, read.event, read.subject, read.policy, read.model, read.action, read.score
    )
    names_fit = all(_NAME.fullmatch(name) for name in read.fields)
    digests_fit = all(_HEX_DIGEST.fullmatch(text) for text in (read.findings, *read.fields.values()))
    if read.v != 1 or not names_fit or not digests_fit or _ENCODER.encode(read) != entry:
        raise InvalidInput("not a log entry of format v1 in canonical form")
    return read


def check_field(entry: bytes, name: str, value: Value, salt: bytes) -> None:
    """Prove that a disclosed value is the one the entry committed to.

    Raises:
        InvalidInput: It is not, or the entry has no such field.
    """
    committed = read_entry(entry).fields.get(name)
    if committed is None:
        raise InvalidInput("the entry has no field of this name")
    _check_commitment(committed, value, salt)


def check_findings(entry: bytes, findings: Value, salt: bytes) -> None:
    """Prove that disclosed findings are those the entry committed to. Raises InvalidInput where they are not."""
    _check_commitment(read_entry(entry).findings, findings, salt)


def open_field(opening: bytes, name: str) -> tuple[Value, bytes]:
    """Value and salt of one field: what to hand over to disclose this field and no other.

    Raises:
        InvalidInput: Not an opening, or it has no such field.
    """
    read = _read_opening(opening)
    if name not in read.fields:
        raise InvalidInput("the opening has no field of this name")
    return read.fields[name], _salt(bytes.fromhex(read.secret), _label(name))


def open_findings(opening: bytes) -> tuple[Value, bytes]:
    """Give the findings and their salt. Raises InvalidInput where it is no opening."""
    read = _read_opening(opening)
    return read.findings, _salt(bytes.fromhex(read.secret), _FINDINGS)


def _salt(secret: bytes, label: bytes) -> bytes:
    """Salt of one commitment: BLAKE2s in its keyed mode (RFC 7693), 16 bytes.

    A keyed mode is what HMAC makes of a hash that has none; here it is one call of 0.7 µs where HMAC-SHA256 takes 2.2.
    Only the operator derives salts: who checks a disclosed field is given its salt and needs SHA-256 alone.
    """
    return hashlib.blake2s(label, key=secret, digest_size=SALT_BYTES).digest()


@functools.lru_cache(maxsize=1024)
def _label(name: str) -> bytes:
    """What the salt of a field is derived from. Raises InvalidInput where the name does not fit the format."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput("the name of a field is not [a-z][a-z0-9_.]{0,31}")
    # The prefix keeps a field named `findings` apart from the findings.
    return b"field:" + name.encode()


def _check_secret(secret: bytes) -> None:
    if len(secret) != SECRET_BYTES:
        raise InvalidInput(f"the secret of an entry has {SECRET_BYTES} bytes")


def _commitment(data: bytes, salt: bytes) -> str:
    return hashlib.sha256(salt + data).hexdigest()


def _check_commitment(committed: str, value: Value, salt: bytes) -> None:
    # The length is fixed, or bytes could move between salt and value and open one commitment in two ways.
    if len(salt) != SALT_BYTES:
        raise InvalidInput(f"a salt has {SALT_BYTES} bytes")
    if not hmac.compare_digest(committed, _commitment(canonical(value), salt)):
        raise InvalidInput("the disclosed value is not the one the entry committed to")


def _plain_finding(finding: Mapping[str, Value]) -> dict[str, Value]:
    plain = dict(finding)
    score = plain.get("score")
    if type(score) is float:
        if not math.isfinite(score):
            raise InvalidInput("the score of a finding is not a number")
        plain["score"] = round(score * _MILLION)
    return plain


def _check_words(  # noqa: PLR0913, PLR0917  one check for all members in the clear
    kind: EntryType,
    time: int,
    node: str,
    event: str,
    subject: str,
    policy: str,
    model: str,
    action: str,
    score: int,
) -> None:
    """Raise InvalidInput where a member in the clear is not what the format says."""
    if not isinstance(kind, EntryType):
        raise InvalidInput("the type of an entry is not in the registry")
    if not 0 <= time <= MAX_INTEGER:
        raise InvalidInput("the time of an entry is not in microseconds since 1970")
    if not 0 <= score <= _MILLION:
        raise InvalidInput("the score of an entry is not in millionths")
    ids = f"{node}{event}{subject}{policy}"
    if not (ids.isascii() and ids.isprintable()):
        raise InvalidInput("an id of an entry is not printable ASCII")
    if max(len(node), len(event), len(subject), len(policy)) > _MAX_ID_CHARS:
        raise LimitExceeded(f"an id of an entry is over {_MAX_ID_CHARS} characters")
    if len(model) > MAX_MODEL_CHARS:
        raise LimitExceeded(f"the model's name is over {MAX_MODEL_CHARS} characters")
    if not model.isascii():
        canonical(model)  # the encoder below would raise an error that is not ours for a lone surrogate
    if _WORD.fullmatch(action) is None:
        raise InvalidInput("the action of an entry is not a lower-case word")


def _read_opening(opening: bytes) -> _Opening:
    value = parse(opening)
    try:
        read = msgspec.convert(value, _Opening)
    except msgspec.ValidationError:
        raise InvalidInput("not an opening") from None
    if read.v != 1 or _HEX_DIGEST.fullmatch(read.secret) is None:
        raise InvalidInput("not an opening of format v1")
    return read
