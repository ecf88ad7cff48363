# SPDX-License-Identifier: Apache-2.0
"""A monitor remembers: what a log shows next has to continue what it showed before, in time and in every entry."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, JournalError
from shieldwall.ledger.audit import ProblemKind
from shieldwall.ledger.cosignature import cosign, open_checkpoint
from shieldwall.ledger.monitor import Expected, Monitor, MonitorReport, Settings, look
from shieldwall.ledger.note import parse_note, write_note
from shieldwall.ledger.storage import PosixStorage
from tests.ledger.made_log import (
    LOG,
    NOW,
    ORIGIN,
    THIEF,
    WITNESSES,
    Memory,
    entry_at,
    files_of,
    leaf,
    log_of,
    make_key,
    make_policy,
    sign,
)

POLICY = make_policy(3)
ENTRIES = [entry_at(NOW - 600 + number, f"e{number}") for number in range(600)]
FORKED = [*ENTRIES[:100], entry_at(NOW - 500, "forged"), *ENTRIES[101:]]


def kinds(report: MonitorReport) -> set[ProblemKind]:
    return {each.kind for each in report.problems}


def time_of(size: int) -> int:
    """When the witnesses saw the log at a size: right after its last entry."""
    return NOW - 600 + size


def at(size: int, entries: list[bytes] = ENTRIES, **kwargs: Any) -> dict[str, bytes]:
    """The log at a size, witnessed when it was so large."""
    return log_of(entries[:size], **{"time": time_of(size), **kwargs})


def look_at(files: dict[str, bytes], last: bytes | None = None, **kwargs: Any) -> MonitorReport:
    return look(files.get, POLICY, last, **{"now": NOW, **kwargs})


def after(size: int) -> bytes:
    """What is kept once the log was seen at a size."""
    kept = look_at(at(size)).kept
    assert kept is not None
    return kept


@pytest.mark.parametrize(("old", "new"), [(0, 1), (0, 600), (1, 2), (99, 600), (255, 256), (256, 300), (300, 300)])
def test_a_log_that_grows_is_in_order(old: int, new: int) -> None:
    """New entries are read once, and held against the witnesses on both sides."""
    report = look_at(at(new), after(old))

    assert (report.problems, report.evidence) == ((), ())
    assert (report.old_size, report.entries, report.is_timed) == (old, new - old, True)
    assert report.head is not None
    assert look_at(at(new), report.kept).entries == 0


def test_the_first_look_believes_and_says_so() -> None:
    """All entries are proved; times have a witness on one side only."""
    report = look_at(at(300))

    assert (report.old_size, report.entries, report.is_timed, report.problems) == (None, 300, False, ())


@pytest.mark.parametrize("size", [0, 1, 299])
def test_a_rollback_is_told_and_proved(size: int) -> None:
    """Both checkpoints are evidence; the larger one is remembered."""
    last = after(300)

    report = look_at(at(size), last)

    assert kinds(report) == {ProblemKind.ROLLBACK}
    assert [open_checkpoint(each, [LOG.key]).checkpoint.size for each in report.evidence] == [300, size]
    assert report.kept == last


@pytest.mark.parametrize("size", [300, 301, 512, 600])
def test_a_fork_is_told_and_proved(size: int) -> None:
    """Every tile of the other log is in order: only who remembers can tell."""
    last = after(300)

    report = look_at(at(size, FORKED), last)

    assert kinds(report) == {ProblemKind.SPLIT_VIEW}
    faces = [open_checkpoint(each, [LOG.key]).checkpoint for each in report.evidence]
    assert [face.size for face in faces] == [300, size]
    assert report.kept == last
    assert look_at(at(600), report.kept).problems == ()


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/001", "tile/1/000.p/2"])
def test_a_damaged_tile_is_not_called_a_fork(path: str) -> None:
    """What the tiles say has to be proved before the log is accused by them."""
    files = at(600)
    files[path] = bytes(32) + files[path][32:]

    report = look_at(files, after(100))

    assert report.problems
    assert not kinds(report) & {ProblemKind.SPLIT_VIEW, ProblemKind.ROLLBACK}
    assert report.kept == after(100)


@pytest.mark.parametrize("path", sorted(at(600)))
def test_what_is_withheld_is_missed_and_looked_for_again(path: str) -> None:
    """What was not read is not passed over: the next look starts from the same place."""
    last = after(0)

    report = look_at({name: data for name, data in at(600).items() if name != path}, last)

    assert ProblemKind.WITHHELD in kinds(report)
    assert report.kept == last


@given(st.sampled_from(sorted(at(600))), st.integers(0, 2**20), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_never_makes_it_move_on(path: str, place: int, flip: int) -> None:
    """Nor does it ever make an honest log look forked. What lies before the last look is for `verify_log` to find."""
    files, last = at(600), after(200)
    data = bytearray(files[path])
    data[place % len(data)] ^= flip

    report = look_at({**files, path: bytes(data)}, last)

    assert not kinds(report) & {ProblemKind.SPLIT_VIEW, ProblemKind.ROLLBACK}
    if path.startswith("tile/entries") and path != "tile/entries/000":
        assert report.kept == last
    if path.startswith(("tile/0", "tile/1")):
        assert report.problems
        assert report.kept == last


HEADS = {
    "wrong key": (sign(ENTRIES, log=THIEF, witnesses=WITNESSES), ProblemKind.KEY),
    "wrong origin": (
        sign(ENTRIES, log=make_key("example.org/other"), origin="example.org/other"),
        ProblemKind.ORIGIN,
    ),
    "no note": (b"hello", ProblemKind.FORMAT),
}


@pytest.mark.parametrize(("note", "kind"), HEADS.values(), ids=HEADS)
def test_another_s_checkpoint_is_refused(note: bytes, kind: ProblemKind) -> None:
    last = after(300)

    report = look_at({**at(600), "checkpoint": note}, last)

    assert (kinds(report), report.kept, report.head) == ({kind}, last, None)


def test_while_the_quorum_stalls_times_are_still_held_against_the_last_one() -> None:
    """Two checkpoints without witnesses, and an entry dated back in the second."""
    late = [*ENTRIES[:400], entry_at(time_of(300) - 61, "early"), *ENTRIES[401:]]
    first = look_at(at(350, late, witnesses=()), after(300))
    second = look_at(at(410, late, witnesses=()), first.kept)

    assert kinds(first) == {ProblemKind.QUORUM}
    assert not first.is_timed
    assert kinds(second) == {ProblemKind.QUORUM, ProblemKind.TIME}
    assert second.old_size == 350


@pytest.mark.parametrize(("shift_s", "is_seen"), [(-60, False), (-61, True), (360, False), (361, True)])
def test_an_entry_that_is_dated_back_or_ahead_is_named(shift_s: int, is_seen: bool) -> None:  # noqa: FBT001  a table
    """By more than a minute from the witnesses before and after it."""
    entries = [*ENTRIES[:400], entry_at(time_of(300) + shift_s, "moved"), *ENTRIES[401:]]

    report = look_at(at(600, entries), after(300))

    assert [(each.kind, each.where) for each in report.problems] == [(ProblemKind.TIME, "entry 400")] * is_seen
    assert report.kept != after(300)


def test_one_witness_that_lies_about_time_accuses_nobody() -> None:
    """Nor does it hide anything: the middle one of three counts."""
    for lie in (1, NOW * 2):
        files = at(600)
        note = parse_note(sign(ENTRIES))
        lines = [cosign(note.text, key, when) for key, when in zip(WITNESSES, (lie, NOW, NOW), strict=False)]
        files["checkpoint"] = write_note(note.text, [*note.signatures, *lines])

        assert look_at(files, after(300)).problems == ()


def test_many_wrong_times_do_not_stop_it() -> None:
    """The first hundred are named, the rest is counted, and the next look goes on from there."""
    entries = [*ENTRIES[:300], *(entry_at(NOW - 9000, f"x{number}") for number in range(1500))]

    report = look_at(log_of(entries, time=NOW), after(300))

    assert kinds(report) == {ProblemKind.TIME}
    assert len(report.problems) == 101
    assert "1400 more" in report.problems[-1].what
    assert look_at(log_of(entries, time=NOW), report.kept).problems == ()


def test_what_is_no_entry_of_ours_is_told() -> None:
    """The log holds entries of format v1 alone."""
    report = look_at(log_of([*ENTRIES[:300], b"hello"], time=NOW), after(300))

    assert [(each.kind, each.where) for each in report.problems] == [(ProblemKind.FORMAT, "entry 300")]


def test_a_promise_that_is_kept() -> None:
    """In the log at its place, or not due yet."""
    expected = [Expected(5, leaf(ENTRIES[5]), NOW - 500), Expected(599, leaf(ENTRIES[599]), NOW)]

    assert look_at(at(600), after(300), expected=expected).problems == ()
    assert look_at(at(599), after(300), expected=[Expected(599, leaf(ENTRIES[599]), NOW - 60)]).problems == ()


def test_an_omission_is_told() -> None:
    """Another entry in its place, or none although witnesses have seen the log long after."""
    expected = [
        Expected(5, leaf(ENTRIES[6]), NOW - 500),
        Expected(600, leaf(b"x"), NOW - 61),
        Expected(10**9, leaf(b"y"), NOW - 1000),
    ]

    report = look_at(at(600), after(300), expected=expected)

    assert [(each.kind, each.where) for each in report.problems] == [
        (ProblemKind.OMISSION, f"entry {each.index}") for each in expected
    ]


def test_a_promise_is_not_called_broken_by_a_damaged_tile() -> None:
    files = at(600)
    files["tile/0/000"] = bytes(32) + files["tile/0/000"][32:]
    settings_ = Settings(with_entries=False)

    report = look_at(files, None, expected=[Expected(0, leaf(ENTRIES[0]), NOW)], settings=settings_)

    assert kinds(report) == {ProblemKind.TILE}
    del files["tile/0/000"]
    report = look_at(files, None, expected=[Expected(0, leaf(ENTRIES[0]), NOW)], settings=settings_)
    assert kinds(report) == {ProblemKind.WITHHELD}


def test_what_witnesses_saw_is_held_against_what_we_see() -> None:
    """The same log at any size is in order; another face of it is not; nor is a newer one that is not shown to us."""
    views = {"same": at(600)["checkpoint"], "older": at(100)["checkpoint"], "empty": at(0)["checkpoint"]}
    assert look_at(at(600), views=views).problems == ()

    report = look_at(at(600), views={"w0": at(300, FORKED)["checkpoint"], "w1": at(600, FORKED)["checkpoint"]})

    assert [(each.kind, each.where) for each in report.problems] == [
        (ProblemKind.SPLIT_VIEW, "w0"),
        (ProblemKind.SPLIT_VIEW, "w1"),
    ]
    assert len(report.evidence) == 3
    newer = at(600, time=NOW)["checkpoint"]
    assert look_at(at(500), views={"w0": newer}).problems == ()
    assert kinds(look_at(at(500), views={"w0": newer}, now=NOW + 61)) == {ProblemKind.STALE}
    assert kinds(look_at(at(500), views={"w0": b"junk"})) == {ProblemKind.FORMAT}
    forged = look_at(at(500), views={"w0": HEADS["wrong key"][0]})
    assert [(each.kind, each.where) for each in forged.problems] == [(ProblemKind.KEY, "w0")]


def test_a_log_that_stands_still_is_told() -> None:
    """It could hide all that came since behind an old checkpoint."""
    assert look_at(at(600), after(600), now=NOW + 3600).problems == ()
    assert kinds(look_at(at(600), after(600), now=NOW + 3601)) == {ProblemKind.STALE}


def test_without_entries_the_tree_is_watched() -> None:
    """Bundles are not asked for; nothing is said about times."""

    def read(path: str) -> bytes | None:
        assert "entries" not in path
        return at(600).get(path)

    report = look(read, POLICY, after(300), settings=Settings(with_entries=False), now=NOW)

    assert (report.problems, report.entries, report.is_timed) == ((), 0, False)
    assert report.kept != after(300)


def test_a_log_that_is_not_reached_is_no_evidence() -> None:
    def read(path: str) -> bytes | None:
        if path != "checkpoint":
            raise JournalError("no answer")
        return at(600)[path]

    report = look(read, POLICY, after(300), now=NOW)

    assert kinds(report) == {ProblemKind.UNREACHABLE}
    assert report.kept == after(300)


def test_what_it_remembers_is_of_this_log() -> None:
    """A memory that cannot be read, or of another log, is not taken for none."""
    for last in (b"", b"{}", b'{"seen":"","witnessed":null}', after(3)[:-3]):
        with pytest.raises(ConfigError):
            look_at(at(5), last)
    with pytest.raises(ConfigError):
        look(at(5).get, make_policy(3, log=THIEF), after(3), now=NOW)
    with pytest.raises(ConfigError):
        Settings(max_age_s=-1)


def test_a_monitor_remembers_over_a_restart(tmp_path: Path) -> None:
    """On a disk, one object per log."""
    files = at(100)
    for size, old in ((100, None), (300, 100), (600, 300)):
        files = at(size)
        storage = PosixStorage(tmp_path / "watch")
        report = Monitor(files.get, POLICY, storage, ORIGIN, clock=lambda: NOW).look()
        storage.close()
        assert (report.old_size, report.problems) == (old, ())
    storage = PosixStorage(tmp_path / "watch")

    report = Monitor(at(600, FORKED).get, POLICY, storage, ORIGIN, clock=lambda: NOW).look()

    assert kinds(report) == {ProblemKind.SPLIT_VIEW}
    assert Monitor(files.get, POLICY, storage, ORIGIN, clock=lambda: NOW).look().old_size == 600
    storage.close()


def test_two_monitors_of_one_memory_do_not_set_each_other_back() -> None:
    """Who was slower has looked at the older one."""
    memory = Memory()
    fast = Monitor(at(600).get, POLICY, memory, ORIGIN, clock=lambda: NOW)
    slow = Monitor(at(300).get, POLICY, memory, ORIGIN, clock=lambda: NOW)
    memory.before_swap = fast.look

    assert slow.look().problems == ()
    assert fast.look().old_size == 600


def test_a_monitor_knows_its_log() -> None:
    with pytest.raises(ConfigError):
        Monitor(at(5).get, POLICY, Memory(), "example.org/other")
    with pytest.raises(ConfigError):
        Monitor(at(5).get, POLICY, Memory(), ORIGIN, logs=[make_key("example.org/other").key])


def test_a_tile_of_a_forged_log_beside_true_ones() -> None:
    """The checkpoint is the true one, new bundles and tiles are forged: nothing of them is proved."""
    forged = files_of(FORKED)
    files = {**at(600), "tile/entries/000": forged["tile/entries/000"], "tile/0/000": forged["tile/0/000"]}

    report = look_at(files, after(0))

    assert ProblemKind.TILE in kinds(report)
    assert report.kept == after(0)
    report = look_at({**files, "tile/0/000": at(600)["tile/0/000"]}, after(0))
    assert ProblemKind.ENTRY in kinds(report)
    assert report.kept == after(0)
