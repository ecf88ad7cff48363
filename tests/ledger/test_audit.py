# SPDX-License-Identifier: Apache-2.0
"""A log is what its checkpoint says or the verifier tells where it is not: flipped, cut, extended, withheld, forged."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.entry import EntryType
from shieldwall.core.errors import ConfigError, InvalidInput, JournalError
from shieldwall.ledger.audit import MAX_PROBLEMS, ProblemKind, is_certain, open_head, verify_log, verify_receipt
from shieldwall.ledger.audit_range import verify_hour, verify_range
from shieldwall.ledger.checkpoint import Checkpoint
from shieldwall.ledger.cosignature import cosign, sign_checkpoint
from shieldwall.ledger.keys import NotVerified, parse_vkey
from shieldwall.ledger.merkle import prove_inclusion
from shieldwall.ledger.note import parse_note, write_note
from shieldwall.ledger.proof_file import ProofFile, write_proof
from shieldwall.ledger.source import Directory, Url
from shieldwall.ledger.trust import parse_policy
from tests.ledger.made_log import (
    LOG,
    NOW,
    ORIGIN,
    THIEF,
    WITNESSES,
    entry_at,
    files_of,
    leaf,
    log_of,
    make_key,
    make_policy,
    root_of,
    sign,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
POLICY = make_policy(3)
NONE = make_policy(0)
ENTRIES = [b"entry %d" % number for number in range(600)]
FILES = log_of(ENTRIES)
HOUR = NOW - NOW % 3600


def kinds(report: Any) -> set[ProblemKind]:
    return {each.kind for each in report.problems}


def check(files: dict[str, bytes], **kwargs: Any) -> set[ProblemKind]:
    """What is wrong with a log."""
    return kinds(verify_log(files.get, POLICY, **kwargs))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 257, 511, 512, 600])
def test_a_log_that_is_whole_has_no_problem(size: int) -> None:
    """Every entry is hashed again, and every tile built again."""
    files = log_of(ENTRIES[:size])

    report = verify_log(files.get, POLICY)

    assert report.problems == ()
    assert report.head is not None
    assert (report.head.checkpoint.size, report.entries) == (size, size)
    assert report.tiles == sum("entries" not in path for path in files) - 1
    assert report.head.witnesses == tuple((f"w{number}", NOW) for number in range(3))


def test_a_log_on_three_levels_is_whole() -> None:
    """Past 65,536 entries a full tile of level 1 is hashed upward."""
    entries = [b"%d" % number for number in range(66_000)]

    report = verify_log(log_of(entries).get, POLICY)

    assert (report.problems, report.entries, report.tiles) == ((), 66_000, 258 + 2 + 1)


def test_the_published_tree() -> None:
    """The reference tree of RFC 6962, at every size, signed here."""
    case = VECTORS["rfc6962_tree"]
    leaves = [bytes.fromhex(each) for each in case["leaf_inputs_hex"]]
    for size, root in enumerate(case["roots_hex"]):
        checkpoint = sign_checkpoint(Checkpoint(ORIGIN, size, bytes.fromhex(root)), [LOG], NOW)

        assert verify_log({**files_of(leaves[:size]), "checkpoint": checkpoint}.get, NONE).problems == ()


def test_the_published_checkpoints_of_a_growing_log() -> None:
    """Those of another implementation, over its own entries."""
    entries = [each.encode() for each in VECTORS["tessera_testdata_entries"]]
    cases = [each for each in VECTORS["checkpoints"] if each["source"].startswith("transparency-dev/tessera testdata")]
    key = parse_vkey(cases[0]["vkey"])
    policy = parse_policy(f"log {key}\nquorum none\n".encode())
    matched = 0
    for case in cases:
        entries_then = entries[: case["size"]]
        if len(entries_then) == case["size"]:
            files = {**files_of(entries_then), "checkpoint": case["checkpoint"].encode()}
            matched += verify_log(files.get, policy).problems == ()

    assert matched >= 2


def test_partial_tiles_may_be_gone_once_the_full_one_is_there() -> None:
    """The checkpoint is of 300 entries, the tiles are of 600."""
    files = {**FILES, "checkpoint": sign(ENTRIES[:300], witnesses=WITNESSES[:3])}
    for kind in ("0", "entries"):
        for number in (0, 1):
            assert f"tile/{kind}/00{number}" in files
    files["tile/1/000.p/1"] = FILES["tile/1/000.p/2"][:32]

    assert check(files) == set()


def reads_the_same(changed: bytes, data: bytes) -> bool:
    """Whether a bit was flipped that means nothing: after the end of the base64 of a signature."""
    try:
        return parse_note(changed) == parse_note(data)
    except InvalidInput:
        return False


@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**20), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_no_bit_may_be_flipped(path: str, place: int, flip: int) -> None:
    """Anywhere in the log but in what nobody is asked to trust: bytes of a signature the policy does not need."""
    data = bytearray(FILES[path])
    data[place % len(data)] ^= flip
    if path == "checkpoint" and reads_the_same(bytes(data), FILES[path]):
        return
    report = verify_log({**FILES, path: bytes(data)}.get, POLICY)

    assert report.problems
    if path != "checkpoint":
        assert report.head is not None
        if "entries" in path:
            assert kinds(report) <= {ProblemKind.ENTRY, ProblemKind.FORMAT}


@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_nothing_may_be_cut_or_extended(path: str, place: int) -> None:
    """By any number of bytes."""
    data = FILES[path]
    for changed in (data[: place % len(data)], data + b"\0", data + data[:32]):
        assert verify_log({**FILES, path: changed}.get, POLICY).problems


@pytest.mark.parametrize("path", sorted(FILES))
def test_nothing_may_be_withheld(path: str) -> None:
    """Each tile, each bundle and the checkpoint is missed by its name."""
    report = verify_log({name: data for name, data in FILES.items() if name != path}.get, POLICY)

    assert ProblemKind.WITHHELD in kinds(report)
    assert path in {each.where for each in report.problems}


def test_an_entry_that_was_changed_is_named() -> None:
    """The tile says what was there; everything else is in order."""
    forged = [*ENTRIES[:300], b"forged!!!", *ENTRIES[301:]]
    bundle = files_of(forged)["tile/entries/001"]

    report = verify_log({**FILES, "tile/entries/001": bundle}.get, POLICY)

    assert [(each.kind, each.where) for each in report.problems] == [(ProblemKind.ENTRY, "entry 300")]


def test_entries_that_move_between_bundles_are_seen() -> None:
    """One more here and one less there hash to the same row of leaves."""
    files = {**FILES}
    first, second = files["tile/entries/000"], files["tile/entries/001"]
    moved = 2 + int.from_bytes(second[:2], "big")
    files["tile/entries/000"], files["tile/entries/001"] = first + second[:moved], second[moved:]

    assert check(files) == {ProblemKind.FORMAT}


def test_a_rewritten_log_under_an_old_checkpoint_is_another_tree() -> None:
    """Every tile is made anew, all is consistent, and the root is not the one that was signed."""
    forged = [b"forged", *ENTRIES[1:]]

    assert check({**files_of(forged), "checkpoint": FILES["checkpoint"]}) == {ProblemKind.ROOT}
    assert check({**files_of(forged), "checkpoint": FILES["checkpoint"]}, with_entries=False) == {ProblemKind.ROOT}


def test_a_tile_is_told_from_its_neighbours() -> None:
    """The tile of level 1 is wrong, those below are not."""
    wrong = FILES["tile/1/000.p/2"][:32] + bytes(32)

    report = verify_log({**FILES, "tile/1/000.p/2": wrong}.get, POLICY)

    assert [(each.kind, each.where) for each in report.problems] == [(ProblemKind.TILE, "tile/1/000.p/2")]


def test_without_entries_the_tiles_are_checked() -> None:
    """Bundles are not even asked for."""

    def read(path: str) -> bytes | None:
        assert "entries" not in path
        return FILES.get(path)

    report = verify_log(read, POLICY, with_entries=False)

    assert (report.problems, report.entries, report.tiles) == ((), 0, 1)


OTHER = make_key("example.org/other")
HEADS = {
    "wrong key": (sign(ENTRIES, log=THIEF, witnesses=WITNESSES), ProblemKind.KEY),
    "wrong origin": (sign(ENTRIES, log=OTHER, origin="example.org/other", witnesses=WITNESSES), ProblemKind.ORIGIN),
    "no witness": (sign(ENTRIES), ProblemKind.QUORUM),
    "two witnesses": (sign(ENTRIES, witnesses=WITNESSES[:2]), ProblemKind.QUORUM),
    "one witness three times": (sign(ENTRIES, witnesses=[WITNESSES[0]] * 3), ProblemKind.QUORUM),
    "strangers": (
        sign(ENTRIES, witnesses=[make_key("x.example", key.key.type, str(n)) for n, key in enumerate(WITNESSES)]),
        ProblemKind.QUORUM,
    ),
    "no note": (b"hello\n", ProblemKind.FORMAT),
    "nothing": (b"", ProblemKind.FORMAT),
    "cut": (FILES["checkpoint"][:-10], ProblemKind.FORMAT),
}


@pytest.mark.parametrize(("note", "kind"), HEADS.values(), ids=HEADS)
def test_a_checkpoint_that_is_not_the_log_s_is_refused(note: bytes, kind: ProblemKind) -> None:
    """By key, by origin, by quorum: each is told apart."""
    assert check({**FILES, "checkpoint": note}) == {kind}


def test_a_cosignature_that_fails_spoils_the_checkpoint() -> None:
    """Also where enough others hold: somebody has tampered."""
    note = parse_note(FILES["checkpoint"])
    wrong = cosign(parse_note(sign(ENTRIES[:5])).text, WITNESSES[4], NOW)

    assert check({**FILES, "checkpoint": write_note(note.text, [*note.signatures, wrong])}) == {ProblemKind.QUORUM}


def test_the_middle_witness_is_not_moved_by_one_liar() -> None:
    """Of four times the earlier and the later of the middle two."""
    note = parse_note(sign(ENTRIES))
    times = [1, NOW, NOW + 5, NOW + 10**6]
    lines = [cosign(note.text, key, time) for key, time in zip(WITNESSES, times, strict=False)]

    head, problems = open_head(write_note(note.text, [*note.signatures, *lines]), POLICY)

    assert head is not None
    assert (problems, head.earliest, head.latest) == ([], NOW, NOW + 5)


def test_no_log_is_trusted_by_accident() -> None:
    """A key of the caller that the policy does not list, or none at all."""
    for policy, logs in ((POLICY, [THIEF.key]), (parse_policy(b"quorum none\n"), [])):
        with pytest.raises(ConfigError):
            verify_log(FILES.get, policy, logs=logs)
    assert verify_log(FILES.get, parse_policy(b"quorum none\n"), logs=[LOG.key]).problems == ()


def test_a_log_that_is_not_reached_is_not_called_clean_nor_forged() -> None:
    """And it is given up after a few requests, which may each have taken long."""
    asked = []

    def read(path: str) -> bytes | None:
        asked.append(path)
        if path == "checkpoint":
            return FILES[path]
        raise JournalError("the disk is gone")

    report = verify_log(read, POLICY)

    assert kinds(report) == {ProblemKind.UNREACHABLE}
    assert not is_certain(report.problems)
    assert is_certain(())
    assert len(asked) < 8


def test_a_report_has_an_end() -> None:
    """A log of which nothing is right fills it only so far."""
    files = {path: bytes(len(data)) for path, data in log_of([b"x%d" % n for n in range(3000)]).items()}
    files = {**files_of([b"y%d" % n for n in range(3000)]), "checkpoint": sign([b"z"], witnesses=WITNESSES[:3])} | {
        path: data for path, data in files.items() if path.startswith("tile/0")
    }
    checkpoint = sign([b"x%d" % n for n in range(3000)], witnesses=WITNESSES[:3])

    report = verify_log({**files, "checkpoint": checkpoint}.get, POLICY)

    assert len(report.problems) == MAX_PROBLEMS


@pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 599])
def test_a_receipt_stands_alone(index: int) -> None:
    """Entry, file and policy: nothing else is needed."""
    report = verify_receipt(receipt(index), ENTRIES[index], POLICY)

    assert (report.origin, report.index, report.size) == (ORIGIN, index, 600)
    assert report.root == root_of([leaf(entry) for entry in ENTRIES])
    assert report.witnesses == tuple((f"w{number}", NOW) for number in range(3))
    assert (report.time, report.problems) == (None, ())


def receipt(index: int, entries: list[bytes] = ENTRIES, checkpoint: bytes | None = None) -> bytes:
    leaves = [leaf(entry) for entry in entries]
    proof = prove_inclusion(
        index, len(entries), lambda places: [root_of(leaves[i << level : i + 1 << level]) for level, i in places]
    )
    checkpoint = sign(entries, witnesses=WITNESSES[:3]) if checkpoint is None else checkpoint
    return write_proof(ProofFile(index, tuple(proof), checkpoint))


def test_a_receipt_proves_its_own_entry_alone() -> None:
    """Another entry, index, root, key, origin, or too few witnesses: it proves nothing."""
    good = receipt(5)
    for entry, file in [
        (ENTRIES[6], good),
        (ENTRIES[5] + b"\0", good),
        (ENTRIES[5], good.replace(b"index 5\n", b"index 4\n")),
        (ENTRIES[5], good.replace(b"index 5\n", b"index 600\n")),
        (ENTRIES[5], receipt(5, checkpoint=sign(ENTRIES[:599], witnesses=WITNESSES[:3]))),
        (ENTRIES[5], receipt(5, checkpoint=sign(ENTRIES, witnesses=WITNESSES[:2]))),
        (ENTRIES[5], receipt(5, checkpoint=sign(ENTRIES, log=THIEF, witnesses=WITNESSES[:3]))),
        (ENTRIES[5], receipt(5, checkpoint=sign(ENTRIES, log=OTHER, origin="example.org/other", witnesses=WITNESSES))),
    ]:
        with pytest.raises(NotVerified):
            verify_receipt(file, entry, POLICY)
    with pytest.raises(InvalidInput):
        verify_receipt(good[:-1], ENTRIES[5], POLICY)


@given(st.integers(0, 2**20), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_no_bit_of_a_receipt_may_be_flipped(place: int, flip: int) -> None:
    """But of its lines by names the policy does not know: a name that was changed is one witness less."""
    good = receipt(5, ENTRIES[:9], sign(ENTRIES[:9], witnesses=WITNESSES[:3]))
    data = bytearray(good)
    data[place % len(data)] ^= flip
    if reads_the_same(bytes(data), good):
        return

    with pytest.raises(InvalidInput):
        verify_receipt(bytes(data), ENTRIES[5], POLICY)


def test_a_receipt_of_an_entry_dated_ahead_says_so() -> None:
    """The witnesses saw it before it says it was made."""
    entries = [entry_at(NOW + 60, "a"), entry_at(NOW + 61, "b")]

    reports = [verify_receipt(receipt(at, entries), entries[at], POLICY) for at in (0, 1)]

    assert [kinds(each) for each in reports] == [set(), {ProblemKind.TIME}]
    assert reports[0].time == (NOW + 60) * 1_000_000


@given(st.integers(0, 600), st.integers(0, 600))
@settings(max_examples=40, deadline=None)
def test_a_range_is_proved_entry_by_entry(one: int, two: int) -> None:
    """Any range; every entry of it is shown, in order, and no other."""
    start, end = sorted((one, two))
    seen: list[tuple[int, bytes]] = []

    report = verify_range(FILES.get, POLICY, start, end, visit=lambda index, entry: seen.append((index, entry)))

    assert (report.problems, report.entries) == ((), end - start)
    assert seen == list(enumerate(ENTRIES))[start:end]


def test_a_range_with_a_forged_entry_is_not_shown() -> None:
    """Tile and bundle agree: the root does not."""
    forged = files_of([*ENTRIES[:300], b"forged", *ENTRIES[301:]])
    files = {**FILES, "tile/entries/001": forged["tile/entries/001"], "tile/0/001": forged["tile/0/001"]}
    seen: list[int] = []

    report = verify_range(files.get, POLICY, 256, 600, visit=lambda index, _: seen.append(index))

    assert ProblemKind.ENTRY in kinds(report)
    assert 300 not in seen
    assert report.entries < 344


def test_a_range_past_the_end_or_backwards() -> None:
    """The first is about the log, the second about the caller."""
    assert kinds(verify_range(FILES.get, POLICY, 590, 601)) == {ProblemKind.COUNT}
    with pytest.raises(InvalidInput):
        verify_range(FILES.get, POLICY, 5, 4)
    assert verify_range({}.get, POLICY, 0, 1).head is None


@pytest.mark.parametrize("path", ["tile/entries/001", "tile/0/001", "tile/1/000.p/2", "tile/0/002.p/88"])
def test_a_range_misses_what_is_withheld(path: str) -> None:
    report = verify_range({name: data for name, data in FILES.items() if name != path}.get, POLICY, 300, 400)

    assert kinds(report) == {ProblemKind.WITHHELD}


HOURS = [
    *(entry_at(HOUR - 3000 + 3 * number, f"before{number}") for number in range(900)),
    *(entry_at(HOUR + 30 * number, f"in{number}", EntryType.DECISION_RESPONSE) for number in range(120)),
    *(entry_at(HOUR + 3600 + 30 * number, f"after{number}") for number in range(40)),
]
MIXED = [HOURS[i ^ 1] if 890 < i < 1040 else HOURS[i] for i in range(len(HOURS))]
"""Neighbours change places: requests are recorded side by side."""
HOUR_FILES = log_of(MIXED, time=HOUR + 5000)


def test_all_entries_of_an_hour_are_counted() -> None:
    """By type, with first and last; the log is not read from its start."""
    asked: list[str] = []

    def read(path: str) -> bytes | None:
        asked.append(path)
        return HOUR_FILES.get(path)

    seen: list[bytes] = []
    report = verify_hour(read, POLICY, HOUR, expected=120, visit=lambda _, entry: seen.append(entry))

    assert report.problems == ()
    assert (report.entries, report.by_type, report.is_over) == (120, {"decision.response": 120}, True)
    assert sorted(seen) == sorted(HOURS[900:1020])
    assert report.first is not None
    assert report.last is not None
    assert 120 <= report.last - report.first + 1 <= 122
    assert "tile/entries/000" not in asked


def test_an_hour_with_another_count_is_told() -> None:
    assert kinds(verify_hour(HOUR_FILES.get, POLICY, HOUR, expected=121)) == {ProblemKind.COUNT}


@pytest.mark.parametrize(
    ("size", "time", "is_over"),
    [(950, HOUR + 100, False), (1020, HOUR + 3720, False), (1020, HOUR + 3721, True), (1030, HOUR + 3600, True)],
)
def test_an_hour_may_not_be_over(size: int, time: int, is_over: bool) -> None:  # noqa: FBT001  a case of a table
    """It is when an entry or the witnesses are well past it."""
    entries = HOURS[:size]

    report = verify_hour(log_of(entries, time=time).get, POLICY, HOUR)

    assert report.is_over is is_over
    assert (report.entries, report.problems) == (min(size, 1020) - 900, ())


def test_an_hour_without_entries_and_one_that_is_no_hour() -> None:
    """None before the log began, none after its end; a time that is no hour is the caller's mistake."""
    for hour in (0, HOUR - 7200, HOUR + 36_000):
        report = verify_hour(HOUR_FILES.get, POLICY, hour, expected=0)
        assert (report.entries, report.first, report.last, report.problems) == (0, None, None, ())
    assert verify_hour(log_of([]).get, POLICY, HOUR).entries == 0
    for wrong in (-3600, HOUR + 1):
        with pytest.raises(InvalidInput):
            verify_hour(HOUR_FILES.get, POLICY, wrong)
    assert verify_hour({}.get, POLICY, HOUR).head is None


def test_an_hour_that_is_withheld_or_forged_is_not_counted() -> None:
    """An entry of it is left out of its bundle, or the bundle is not there."""
    without = {path: data for path, data in HOUR_FILES.items() if path != "tile/entries/003"}
    assert ProblemKind.WITHHELD in kinds(verify_hour(without.get, POLICY, HOUR))
    forged = {**HOUR_FILES, "tile/entries/003": files_of([*MIXED[:1000], *MIXED[1001:1025]])["tile/entries/003"]}
    assert ProblemKind.ENTRY in kinds(verify_hour(forged.get, POLICY, HOUR))
    assert ProblemKind.FORMAT in kinds(verify_hour(FILES.get, POLICY, HOUR))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for path, data in FILES.items():
        file = tmp_path / "log" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "log"


def test_a_directory_is_read_as_it_is_served(directory: Path) -> None:
    """Only paths of a log; what is no file is nothing."""
    source = Directory(directory)
    assert verify_log(source.read, POLICY).problems == ()
    (directory / "tile/0/001").unlink()
    (directory / "tile/0/001").mkdir()
    assert source.read("tile/0/001") is None
    for path in ("../log/checkpoint", "/etc/passwd", "tile/../checkpoint", "tile/0/1"):
        with pytest.raises(InvalidInput):
            source.read(path)
    (directory / "checkpoint").write_bytes(bytes(17 << 20))
    assert check_kinds(source.read) == {ProblemKind.FORMAT}
    assert Directory(directory / "nowhere").read("checkpoint") is None


def check_kinds(read: Callable[[str], bytes | None]) -> set[ProblemKind]:
    return kinds(verify_log(read, POLICY))


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, Any]]]:
    """The log over HTTP; `answers` may say otherwise for a path."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.removeprefix("/ledger/")
            status, data = 200, FILES.get(path)
            if "key" in answers and "entries" in path and self.headers.get("authorization") != answers["key"]:
                status = 403 if "authorization" in self.headers else 401
            elif path in answers:
                status, data = answers[path]
            elif data is None:
                status = 404
            self.send_response(status)
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/ledger/", answers
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_log_is_checked_where_it_is_served(served: tuple[str, dict[str, Any]]) -> None:
    """Not there is evidence, anything else is not; an auditor's key opens the bundles."""
    url, answers = served
    answers["key"] = "Bearer auditor"
    sources = [
        Url(url, headers=headers) for headers in ({"authorization": "Bearer auditor"}, {"authorization": "x"}, {})
    ]
    reports = [verify_log(source.read, POLICY) for source in sources]

    assert [kinds(each) for each in reports] == [set(), {ProblemKind.UNREACHABLE}, {ProblemKind.UNREACHABLE}]
    assert "auditor" not in str(reports[1].problems).replace("an auditor's key", "")
    answers["tile/0/001"] = (404, None)
    assert kinds(verify_log(sources[0].read, POLICY)) == {ProblemKind.WITHHELD}
    answers["tile/0/001"] = (503, None)
    assert kinds(verify_log(sources[0].read, POLICY)) == {ProblemKind.UNREACHABLE}
    answers["checkpoint"] = (302, b"")
    assert kinds(verify_log(sources[0].read, POLICY)) == {ProblemKind.UNREACHABLE}
    for source in sources:
        source.close()
