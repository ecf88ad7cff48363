# SPDX-License-Identifier: Apache-2.0
"""Each decision of the log is counted in exactly one hour, and a decision that is left out of an hour is missed."""

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.entry import EntryType, read_entry, seal_entry
from shieldwall.core.errors import InvalidInput
from shieldwall.ledger import hours
from shieldwall.ledger.hours import HourCount, Hours, check_hour, check_next_hour, count_hour, read_hour, seal_hour
from shieldwall.ledger.journal import Journal
from tests.ledger.log_support import SMALL, House, house

HOUR_US = 3_600_000_000
NOON = 497_220
"""2026-09-21T12 in hours since the Unix epoch."""


def line(hour: float, kind: EntryType = EntryType.DECISION_REQUEST, model: str = "") -> bytes:
    """An entry of that time."""
    return seal_entry(
        type=kind,
        time=round(hour * HOUR_US),
        node="node",
        event="event",
        subject="",
        policy="",
        model=model,
        action="",
        score=0,
        findings=(),
        fields={"type": "decision.request", "time": 1},
        secret=bytes(32),
    )[0]


class Clock:
    """Shows what it is set to, hours since the Unix epoch."""

    def __init__(self, hour: float) -> None:
        self.hour = hour

    def __call__(self) -> int:
        """Nanoseconds."""
        return round(self.hour * HOUR_US) * 1_000


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path, settings=SMALL)
    yield opened
    opened.close()


def record(journal: Journal, *lines: bytes) -> None:
    for promise in [journal.append(each) for each in lines]:
        promise.result(30)


def keeper(journal: Journal, clock: Clock) -> Hours:
    return Hours(journal, clock=clock, entropy=os.urandom, node="node")


def entries(journal: Journal) -> list[bytes]:
    return [each for _, each, _ in journal.entries()]


def counts(journal: Journal) -> list[tuple[bytes, HourCount]]:
    return [(each, read_hour(each)) for each in entries(journal) if b'"type":"ledger.hour"' in each]


def test_a_count_is_appended_at_the_turn_of_the_hour(journal: Journal) -> None:
    clock = Clock(NOON + 0.5)
    kept = keeper(journal, clock)
    record(journal, line(NOON + 0.1), line(NOON + 0.2, EntryType.NODE_START), line(NOON + 0.3))

    assert kept.turn() is None
    clock.hour = NOON + 1
    assert kept.turn() == HourCount(NOON, NOON + 1, 0, 3, 2)
    assert kept.turn() is None
    clock.hour = NOON + 2.001
    assert kept.turn() == HourCount(NOON + 1, NOON + 2, 3, 4, 0)
    first, second = (entry for entry, _ in counts(journal))
    assert read_entry(first).event == "hours/2026-09-21T12/2026-09-21T13/entries/0/3/decisions/2"
    assert check_hour(first, entries(journal)[:3]).decisions == 2
    assert check_hour(second, entries(journal)[3:4]).decisions == 0
    check_next_hour(read_hour(first), read_hour(second))


def test_nothing_is_counted_in_an_empty_journal(journal: Journal) -> None:
    assert keeper(journal, Clock(NOON)).turn() is None
    assert journal.size == 0


def test_an_entry_of_the_new_hour_is_left_to_its_own_count(journal: Journal) -> None:
    """The turn of the hour was noticed late; what came late to the journal is counted, in the next hour."""
    clock = Clock(NOON + 1.01)
    record(journal, line(NOON + 0.5), line(NOON + 1.001), line(NOON + 1.002), line(NOON + 1.003))
    kept = keeper(journal, clock)

    assert kept.turn() == HourCount(NOON, NOON + 1, 0, 1, 1)
    record(journal, line(NOON + 0.9999), line(NOON + 1.5))
    clock.hour = NOON + 2
    assert kept.turn() == HourCount(NOON + 1, NOON + 2, 1, 7, 5)
    check_hour(counts(journal)[1][0], entries(journal)[1:7])


def test_an_entry_between_two_that_are_older_is_counted_with_them(journal: Journal) -> None:
    """Of one moment, entries do not become durable in order of time."""
    record(journal, line(NOON + 0.5), line(NOON + 1.0001), line(NOON + 0.9999), line(NOON + 1.0002))

    assert keeper(journal, Clock(NOON + 1.001)).turn() == HourCount(NOON, NOON + 1, 0, 3, 3)
    check_hour(counts(journal)[0][0], entries(journal)[:3])


def test_a_stand_still_is_one_count(journal: Journal) -> None:
    record(journal, line(NOON + 0.5))

    assert keeper(journal, Clock(NOON + 7.2)).turn() == HourCount(NOON, NOON + 7, 0, 1, 1)


def test_a_clock_that_was_set_back_counts_nothing_twice(journal: Journal) -> None:
    clock = Clock(NOON + 2)
    kept = keeper(journal, clock)
    record(journal, line(NOON + 1.5))
    kept.turn()

    clock.hour = NOON - 3
    assert kept.turn() is None
    clock.hour = NOON + 3
    assert kept.turn() == HourCount(NOON + 2, NOON + 3, 1, 2, 0)


@pytest.mark.parametrize("later", [0, 3, 9_000])
def test_a_restart_goes_on_after_the_last_count(journal: Journal, later: int) -> None:
    """However far back it lies."""
    clock = Clock(NOON + 1)
    record(journal, line(NOON + 0.5))
    keeper(journal, clock).turn()
    for _ in range(0, later, 3_000):
        record(journal, *[line(NOON + 1.5)] * min(later, 3_000))

    assert keeper(journal, clock).turn() is None
    clock.hour = NOON + 2
    assert keeper(journal, clock).turn() == HourCount(NOON + 1, NOON + 2, 1, 2 + later, later)


def test_what_a_client_wrote_is_not_counted(journal: Journal) -> None:
    """Neither a model nor a field named like a type makes a decision of another entry."""
    tricky = '","type":"decision.request","v":1}'
    record(journal, line(NOON + 0.1, EntryType.NODE_START, model=tricky), b'{"type":"ledger.hour"}', b"no entry")
    record(journal, line(NOON + 0.2, EntryType.NODE_STOP, model='"type":"ledger.hour"'))

    assert keeper(journal, Clock(NOON + 1)).turn() == HourCount(NOON, NOON + 1, 0, 4, 0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3_000), st.booleans(), st.booleans()), max_size=40))
def test_together_the_counts_cover_the_log(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, bool]]
) -> None:
    """Without a gap and without counting twice, however entries, turns and restarts come."""
    journal = Journal(tmp_path_factory.mktemp("hours"), settings=SMALL)
    clock = Clock(NOON)
    kept = keeper(journal, clock)
    for seconds, decides, restarts in steps:
        clock.hour += seconds / 3_600
        record(journal, line(clock.hour, EntryType.DECISION_TOOL if decides else EntryType.NODE_SELFTEST))
        if restarts:
            kept = keeper(journal, clock)
        kept.turn()
    clock.hour += 1
    kept.turn()
    found, lines = counts(journal), entries(journal)
    journal.close()

    for (_, before), (_, after) in itertools.pairwise(found):
        check_next_hour(before, after)
    for entry, count in found:
        assert check_hour(entry, lines[count.first : count.end]) == count
    total = sum(count.decisions for _, count in found)
    assert total == sum(decides for _, decides, _ in steps)
    assert all(count.first == 0 for _, count in found[:1])


def stated(count: HourCount, time: int | None = None) -> bytes:
    return seal_hour(count, time=count.until * HOUR_US if time is None else time, node="node", secret=bytes(32))[0]


def test_what_is_left_out_or_added_is_missed() -> None:
    lines = [line(NOON + 0.1), line(NOON + 0.2, EntryType.NODE_START), line(NOON + 0.3)]
    count = stated(HourCount(NOON, NOON + 1, 7, 10, 2))
    check_hour(count, lines)

    for wrong in (
        lines[:2],
        [*lines, lines[0]],
        [lines[0], lines[1], lines[1]],
        [lines[0], lines[0], lines[0]],
        [lines[0], lines[1], line(NOON - 1)],
        [lines[0], lines[1], line(NOON + 1.02)],
        [lines[0], lines[1], b"no entry"],
    ):
        with pytest.raises(InvalidInput):
            check_hour(count, wrong)
    with pytest.raises(InvalidInput):
        check_hour(lines[0], lines)


def test_up_to_a_minute_beside_the_hour_is_taken() -> None:
    lines = [line(NOON - 59 / 3_600), line(NOON + 1 + 59 / 3_600)]

    check_hour(stated(HourCount(NOON, NOON + 1, 0, 2, 2)), lines)


@pytest.mark.parametrize(
    "figures",
    [
        (NOON, NOON, 0, 0, 0),
        (-1, NOON, 0, 0, 0),
        (NOON, 10**9, 0, 0, 0),
        (NOON, NOON + 1, 3, 2, 0),
        (NOON, NOON + 1, -1, 2, 0),
        (NOON, NOON + 1, 0, 2, 3),
        (NOON, NOON + 1, 0, 2, -1),
        (NOON, NOON + 1, 0, 10**16, 0),
    ],
)
def test_figures_that_do_not_fit_are_refused(figures: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        HourCount(*figures)


def test_a_count_has_one_writing() -> None:
    """Hours that do not exist, zeros before a number, and a time before the hour was over."""
    count = HourCount(NOON, NOON + 1, 0, 3, 2)
    good = stated(count)
    assert read_hour(good) == count

    for old, new in (
        (b"2026-09-21T12", b"2026-02-30T12"),
        (b"2026-09-21T12", b"2026-09-21T24"),
        (b"2026-09-21T12", b"0000-09-21T12"),
        (b"2026-09-21T12", b"1969-09-21T12"),
        (b"2026-09-21T13", b"2026-09-21T11"),
        (b"/0/3/", b"/0/03/"),
        (b"/0/3/", b"/0/-3/"),
        (b"/0/3/", b"/4/3/"),
        (b"decisions/2", b"decisions/4"),
        (b"decisions/2", b"decisions/2 "),
        (b"hours/", b"hour/"),
        (b"ledger.hour", b"ledger.init"),
    ):
        assert old in good
        with pytest.raises(InvalidInput):
            read_hour(good.replace(old, new, 1))
    with pytest.raises(InvalidInput):
        read_hour(stated(count, time=count.until * HOUR_US - 1))


def test_counts_that_do_not_go_on_are_told() -> None:
    before = HourCount(NOON, NOON + 1, 0, 10, 2)
    check_next_hour(before, HourCount(NOON + 1, NOON + 2, 10, 20, 3))

    for after in (HourCount(NOON + 1, NOON + 2, 11, 20, 3), HourCount(NOON + 2, NOON + 3, 10, 20, 3)):
        with pytest.raises(InvalidInput, match="left out or counted twice"):
            check_next_hour(before, after)


def test_the_greatest_count_fits_an_entry() -> None:
    count = HourCount(2_500_000, 2_501_999, 10**16 - 2, 10**16 - 1, 1)

    assert len(count.event) <= 128
    assert read_hour(stated(count)) == count


def test_counting_follows_the_type_and_the_time_alone() -> None:
    """The fast way over millions of entries sees what reading each would see."""
    lines = [line(NOON + 0.1 * number, kind) for number, kind in enumerate(EntryType)]
    expected = sum(
        read_entry(each).type.value.startswith("decision.")
        for each in lines
        if read_entry(each).time < (NOON + 1) * HOUR_US
    )

    found = count_hour(
        ((index, each, b"") for index, each in enumerate(lines)), since=NOON, until=NOON + 1, first=0, size=len(lines)
    )

    assert found.decisions == expected
    assert hours.SLACK_S == 60


def test_the_runner_of_the_log_appends_counts(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        found: House = home.begin()
        record(found.journal, line(NOON + 0.5))
        log = found.log()
        stop = threading.Event()
        stop.set()

        log.run(stop, before=keeper(found.journal, Clock(NOON + 1)).turn)

        assert log.status().published == 2
        assert counts(found.journal)[0][1].decisions == 1
