# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as a segment, an entry and an opening: they are read, or refused with an error of ours."""

from shieldwall.core.codec import canonical, parse
from shieldwall.core.entry import EntryType, check_field, open_field, open_findings, read_entry, seal_entry
from shieldwall.core.errors import Error
from shieldwall.ledger.segment import HEAD_BYTES, Head, encode_frame, encode_head, frame_at, survey, walk

__all__ = ["SEEDS", "fuzz"]


def fuzz(data: bytes) -> None:
    """Raise nothing but what is wrong with the readers themselves."""
    _segment(data)
    _entry(data)


def _segment(data: bytes) -> None:
    try:
        held = survey([data])
    except Error:
        held = None
    if held is not None:
        place = held.places[0]
        assert held.durable <= held.count == place.count
        assert HEAD_BYTES <= place.end <= len(data)
    # The head's CRC keeps most inputs out, so frames are also looked for without one, and under a head that fits.
    for offset in range(min(len(data), 64)):
        frame = frame_at(data, offset, 0)
        assert frame is None or offset < frame.end <= len(data)
    body = data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0") + data[HEAD_BYTES:]
    head = Head(1, len(body), bytes(16))
    whole = encode_head(head) + body[HEAD_BYTES:]
    try:
        held = survey([whole])
    except Error:
        return
    assert sum(1 for _ in walk(whole, head.seed, 0, HEAD_BYTES)) == held.count


def _entry(data: bytes) -> None:
    try:
        read = read_entry(data)
        for name in read.fields:
            check_field(data, name, None, bytes(16))
    except Error:
        pass
    try:
        open_findings(data)
        open_field(data, "tenant")
    except Error:
        pass
    try:
        value = parse(data)
    except Error:
        return
    assert canonical(value) == data


def _seeds() -> list[bytes]:
    entry, opening = seal_entry(
        type=EntryType.NODE_START,
        time=1,
        node="n",
        event="e",
        subject="",
        policy="",
        model="",
        action="",
        score=0,
        findings=[{"score": 0.5}],
        fields={"tenant": "acme"},
        secret=bytes(32),
    )
    head = Head(1, 4096, bytes(16))
    frames = encode_frame(head.seed, 0, 0, entry, opening) + encode_frame(head.seed, 1, 1, entry)
    note = encode_frame(head.seed, 2, 2, b"")
    segment = encode_head(head) + frames + note
    torn = encode_head(head) + frames[:-9] + note
    return [
        b"",
        entry,
        opening,
        b'{"a":[1,null,true,"\\u0000"]}',
        segment.ljust(4096, b"\0"),
        torn.ljust(4096, b"\0"),
        encode_frame(0, 0, 0, entry),
    ]


SEEDS: list[bytes] = _seeds()
"""A whole segment, a torn one, a frame, an entry, an opening and plain JSON."""
