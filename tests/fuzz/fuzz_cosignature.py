# SPDX-License-Identifier: Apache-2.0
"""Bytes as a cosigned checkpoint, and as the data of one cosignature: nothing is verified but what was signed.

ML-DSA signs differently each time, so the seeds are the vector of the tests: the same in every run.
"""

import json
from contextlib import suppress
from pathlib import Path

import tests
from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.cosignature import check_signature, open_checkpoint, verify_subtree
from shieldwall.ledger.keys import NotVerified, parse_vkey
from shieldwall.ledger.note import parse_note, write_note

__all__ = ["SEEDS", "fuzz"]

_VECTORS = Path(tests.__file__).parent / "ledger" / "vectors.json"
# Its log was renamed after it was signed: here it has its own name back.
_CASE = json.loads(_VECTORS.read_text("utf-8").replace("log.example/shieldwall", "log.example/testudo"))["cosigned"][0]
_LOG, *_WITNESSES = (parse_vkey(each) for each in (_CASE["log_vkey"], *_CASE["witness_vkeys"]))
_WHOLE = _CASE["checkpoint"].encode()
_NOTE = parse_note(_WHOLE)
_LINES = _NOTE.signatures[1:]
_CHECKPOINT = open_checkpoint(_WHOLE, [_LOG]).checkpoint


def fuzz(data: bytes) -> None:
    """Take it as a whole note, and as what each witness is said to have signed."""
    with suppress(InvalidInput):
        # ML-DSA does not cover extension lines, so the three lines are what has to be the same.
        seen = open_checkpoint(data, [_LOG, *_WITNESSES]).checkpoint
        assert (seen.origin, seen.size, seen.root) == (_CHECKPOINT.origin, _CHECKPOINT.size, _CHECKPOINT.root)
    for key, line, time in zip(_WITNESSES, _LINES, _CASE["timestamps"], strict=True):
        with suppress(NotVerified):
            assert check_signature(key, _NOTE.text, data) == time
            assert data == line.data
        with suppress(NotVerified):
            verify_subtree(key, data, origin=_CHECKPOINT.origin, start=0, end=8, root=_CHECKPOINT.root)
            assert data == line.data


SEEDS: list[bytes] = [
    _WHOLE,
    write_note(_NOTE.text, _NOTE.signatures[:2]),
    *(line.data for line in _LINES),
]
"""A checkpoint with both cosignatures and with one, and the data of each."""
