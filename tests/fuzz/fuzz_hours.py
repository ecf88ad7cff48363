# SPDX-License-Identifier: Apache-2.0
"""Bytes as the count of an hour: an error of ours, or figures that fit each other and are written in one way."""

from shieldwall.core.entry import EntryType, read_entry, seal_entry
from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.hours import HourCount, check_hour, read_hour, seal_hour

__all__ = ["SEEDS", "fuzz"]


def fuzz(data: bytes) -> None:
    """Read it; an empty hour, and only that, is shown by no entries."""
    try:
        count = read_hour(data)
    except InvalidInput:
        return
    assert read_entry(data).event == count.event
    assert 0 <= count.decisions <= count.end - count.first
    try:
        check_hour(data, [])
    except InvalidInput:
        assert count.first < count.end
    else:
        assert count.first == count.end


def _other() -> bytes:
    return seal_entry(
        type=EntryType.LEDGER_INIT,
        time=0,
        node="n",
        event="hours/1970-01-01T00/1970-01-01T01/entries/0/3/decisions/2",
        subject="",
        policy="",
        model="",
        action="",
        score=0,
        findings=(),
        fields={},
        secret=bytes(32),
    )[0]


SEEDS: list[bytes] = [
    seal_hour(HourCount(0, 1, 0, 3, 2), time=3_600_000_000, node="n", secret=bytes(32))[0],
    seal_hour(HourCount(497_220, 497_230, 5, 5, 0), time=497_230 * 3_600_000_000, node="n", secret=bytes(32))[0],
    _other(),
]
"""An hour with decisions, ten without an entry, and another type that states the same."""
