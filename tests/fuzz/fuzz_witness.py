# SPDX-License-Identifier: Apache-2.0
"""Bytes as an add-checkpoint request: an answer of the protocol, and no signature but for the log that is known."""

from contextlib import suppress

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.keys import KeyType, SigningKey
from shieldwall.ledger.note import parse_note
from shieldwall.ledger.witness import Request, Witness, parse_request, write_request
from tests.ledger.made_log import LOG, NOW, ORIGIN, Memory, prove, sign

__all__ = ["SEEDS", "fuzz"]

ENTRIES = [b"entry %d" % number for number in range(8)]
_KEY = SigningKey("w.example", KeyType.COSIGNATURE, b"w" * 32)
_FACES = {size: sign(ENTRIES[:size]) for size in (0, 3, 8)}
_TEXTS = {parse_note(note).text for note in _FACES.values()}


def fuzz(data: bytes) -> None:
    """Read it, write it, and ask a witness that has cosigned three entries."""
    with suppress(InvalidInput):
        assert write_request(parse_request(data)) == data
    memory = Memory()
    witness = Witness(memory, {ORIGIN: [LOG.key]}, [_KEY], clock=lambda: NOW)
    assert witness.add_checkpoint(SEEDS[1]).status == 200
    before = dict(memory.files)
    answer = witness.add_checkpoint(data)
    assert answer.status in {200, 400, 403, 404, 409, 422}
    assert (answer.status == 409) is (answer.content_type == "text/x.tlog.size")
    if answer.status == 200:
        assert parse_note(parse_request(data).checkpoint).text in _TEXTS
    else:
        assert memory.files == before


SEEDS: list[bytes] = [
    write_request(Request(0, (), _FACES[0])),
    write_request(Request(0, (), _FACES[3])),
    write_request(Request(3, (), _FACES[3])),
    write_request(Request(3, prove(ENTRIES, 3, 8), _FACES[8])),
    write_request(Request(8, (), _FACES[3])),
]
"""The first, the same again, one that grows by proof, one that shrinks."""
