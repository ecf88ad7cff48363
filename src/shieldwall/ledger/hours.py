# SPDX-License-Identifier: Apache-2.0
"""How many decisions an hour had, stated in the log itself, so that one that is left out later is missed.

At the turn of the hour the node appends an entry of type `ledger.hour`. It names, in the clear, the hours it is about,
the entries of the log they consist of, and how many of those are decisions. Every such entry goes on where the one
before it ended, so together they cover the log without a gap, and each entry of the log lies in one of them.

An entry belongs to the hours by its place, not by its time: what was decided just before the turn of the hour and
became durable just after it may be counted with the next hour. By more than `SLACK_S` no entry may be off.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from shieldwall.core.entry import SECRET_BYTES, EntryType, read_entry, seal_entry
from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.journal import Journal

__all__ = ["SLACK_S", "HourCount", "Hours", "check_hour", "check_next_hour", "count_hour", "read_hour", "seal_hour"]

HOUR = "ledger.hour"
SLACK_S = 60
"""How far an entry may be off the hours it is counted with: what back-dating is held to everywhere."""

_SLACK_US = SLACK_S * 1_000_000
_HOUR_US = 3_600_000_000
_MAX_HOUR = 70_000_000
"""About the year 9955: `datetime` ends soon after."""

_PROMISE_S = 30.0
_WINDOW = 4_096
_HOUR_TEXT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}"
_NUMBER = r"(0|[1-9][0-9]{0,15})"
_EVENT = re.compile(f"hours/({_HOUR_TEXT})/({_HOUR_TEXT})/entries/{_NUMBER}/{_NUMBER}/decisions/{_NUMBER}")

# The members of an entry stand in order, so time and type are its end, and no quote inside a string is written bare.
_TAIL = re.compile(rb',"time":([0-9]{1,16}),"type":"([a-z_.]{1,32})","v":1\}\Z')
_TAIL_BYTES = 90
_DECISION = b"decision."
_HOUR_TYPE = HOUR.encode()


class HourCount(msgspec.Struct, frozen=True):
    """What an entry of type `ledger.hour` states."""

    since: int
    """First hour it is about, in hours since the Unix epoch."""
    until: int
    """Hour after the last one. They are more than one where the node did not run at the turn of an hour."""
    first: int
    """Index of its first entry."""
    end: int
    """Index after its last entry."""
    decisions: int
    """Entries of type `decision.*` among them."""

    @property
    def event(self) -> str:
        """Statement as it stands in the entry, in the member `event`."""
        hours = f"{_hour_text(self.since)}/{_hour_text(self.until)}"
        return f"hours/{hours}/entries/{self.first}/{self.end}/decisions/{self.decisions}"

    def __post_init__(self) -> None:
        """Raise InvalidInput where the figures do not fit each other."""
        if not 0 <= self.since < self.until <= _MAX_HOUR:
            raise InvalidInput("the hours of a count are not in order")
        if not (0 <= self.first <= self.end < 10**16 and 0 <= self.decisions <= self.end - self.first):
            raise InvalidInput("a count has more decisions than entries, or its entries are not in order")


def count_hour(
    entries: Iterable[tuple[int, bytes, bytes]], *, since: int, until: int, first: int, size: int
) -> HourCount:
    """Count decisions from `first` up to the last entry that is older than hour `until`.

    The last, not the first that is younger: entries of one moment do not become durable in order of time, and one that
    a wrong clock dated ahead does not end the count of its hour.

    Args:
        entries: What `Journal.entries(first)` gives.
        since: First hour.
        until: Hour after the last one.
        first: Index of the first entry.
        size: Where the log ends at most.
    """
    end, decisions, seen = first, 0, 0
    for index, entry, _ in entries:
        if index >= size:
            break
        time, kind = _tail(entry)
        seen += kind.startswith(_DECISION)
        if 0 <= time < until * _HOUR_US:
            end, decisions = index + 1, seen
    return HourCount(since, until, first, end, decisions)


def seal_hour(count: HourCount, *, time: int, node: str, secret: bytes) -> tuple[bytes, bytes]:
    """Write the entry and its opening. `time` in microseconds since the Unix epoch, `secret` 32 unpredictable bytes."""
    return seal_entry(
        type=EntryType(HOUR),
        time=time,
        node=node,
        event=count.event,
        subject="",
        policy="",
        model="",
        action="",
        score=0,
        findings=(),
        fields={},
        secret=secret,
    )


def read_hour(entry: bytes) -> HourCount:
    """Read what an entry of type `ledger.hour` states.

    Raises:
        InvalidInput: It is no such entry.
    """
    read = read_entry(entry)
    match = _EVENT.fullmatch(read.event)
    if read.type != HOUR or match is None:
        raise InvalidInput("the entry is no count of an hour")
    since, until, *figures = match.groups()
    count = HourCount(_hour(since), _hour(until), *map(int, figures))
    if count.event != read.event or read.time < count.until * _HOUR_US:
        raise InvalidInput("a count of an hour is not written as it should be, or was made before the hour was over")
    return count


def check_hour(entry: bytes, entries: Sequence[bytes]) -> HourCount:
    """Prove that these are all the decisions of the hours a count is about.

    Args:
        entry: The count.
        entries: Everything from its first index to its last, each proved to be at its place in the log by the caller.

    Returns:
        What the count states.

    Raises:
        InvalidInput: There are more or fewer entries or decisions, or one is of another time. The message says which.
    """
    count = read_hour(entry)
    if len(entries) != count.end - count.first:
        raise InvalidInput(f"the count is over {count.end - count.first} entries, {len(entries)} are here")
    decisions = 0
    for index, each in enumerate(entries, count.first):
        read = read_entry(each)
        if not count.since * _HOUR_US - _SLACK_US <= read.time < count.until * _HOUR_US + _SLACK_US:
            raise InvalidInput(
                f"entry {index} is of another time than the hours it is counted with",
                hint="its clock was set, or it was dated back",
            )
        decisions += read.type.value.startswith("decision.")
    if decisions != count.decisions:
        raise InvalidInput(f"the count states {count.decisions} decisions, {decisions} are here")
    return count


def check_next_hour(before: HourCount, after: HourCount) -> None:
    """Prove that one count goes on where the other ended. Raises InvalidInput where hours or entries are left out."""
    if (before.until, before.end) != (after.since, after.first):
        raise InvalidInput(
            f"between two counts hours or entries are left out or counted twice: the one ends at entry {before.end}, "
            f"the other starts at {after.first}"
        )


class Hours:
    """Appends a count at the turn of each hour. One thread calls it, such as `Log.run` does with `before=hours.turn`.

    Args:
        journal: Where entries are read and the count is appended.
        clock: Nanoseconds since the Unix epoch.
        entropy: Gives so many unpredictable bytes.
        node: Name of the node.
    """

    def __init__(
        self, journal: Journal, *, clock: Callable[[], int], entropy: Callable[[int], bytes], node: str
    ) -> None:
        """Find the last count: what came after it is read, or everything where there is none."""
        self._journal, self._clock, self._entropy, self._node = journal, clock, entropy, node
        self._last = _last_hour(journal)

    def turn(self) -> HourCount | None:
        """Append the count of the hours that are over and have none yet; durable on return. None where there are none.

        After a stand-still one count is about all the hours in between. Where the clock was set back nothing is
        appended until it has caught up.

        Raises:
            Overloaded, JournalError: See `Journal.append`. TimeoutError: the disk hangs; the next call tries again.
        """
        now = self._clock() // 1_000
        until = now // _HOUR_US
        since, first = self._start(until)
        if until <= since:
            return None
        size = self._journal.size
        count = count_hour(self._journal.entries(first), since=since, until=until, first=first, size=size)
        entry = seal_hour(count, time=now, node=self._node, secret=self._entropy(SECRET_BYTES))
        self._journal.append(*entry).result(_PROMISE_S)
        self._last = count
        return count

    def _start(self, until: int) -> tuple[int, int]:
        """Hour and index from which nothing is counted yet."""
        if self._last is not None:
            return self._last.until, self._last.end
        for _, entry, _ in self._journal.entries():
            return max(_tail(entry)[0], 0) // _HOUR_US, 0
        return until, 0


def _last_hour(journal: Journal) -> HourCount | None:
    """Find the last count, reading backwards in windows that double."""
    end, window = journal.size, _WINDOW
    while end > 0:
        start = max(end - window, 0)
        found = None
        for index, entry, _ in journal.entries(start):
            if index >= end:
                break
            if _tail(entry)[1] == _HOUR_TYPE:
                with contextlib.suppress(InvalidInput):  # no node of ours has written it
                    found = read_hour(entry)
        if found is not None:
            return found
        end, window = start, window * 2
    return None


def _tail(entry: bytes) -> tuple[int, bytes]:
    """Time and type of an entry, without reading all of it: an hour may have millions. -1 where it is no entry."""
    match = _TAIL.search(entry, max(len(entry) - _TAIL_BYTES, 0))
    return (int(match[1]), match[2]) if match is not None else (-1, b"")


def _hour_text(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H")


def _hour(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()) // 3600
    except ValueError:
        raise InvalidInput("an hour of a count is no hour") from None
