# SPDX-License-Identifier: Apache-2.0
"""Hashes and proofs of the tree agree with the public vectors and with a second, slow implementation of the RFC."""

import array
import base64
import functools
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from shieldwall.core.errors import InvalidInput
from shieldwall.ledger.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    Frontier,
    Hasher,
    Place,
    PlainHasher,
    Run,
    check_consistency,
    check_inclusion,
    check_subtree,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    prove_subtree,
    range_root,
    subtrees,
    tree_root,
)
from shieldwall.ledger.merkle_hasher import make_hasher
from shieldwall.ledger.merkle_kernels import FastHasher

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))

LEAVES = [leaf_hash(f"entry {number}".encode()) for number in range(600)]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1: the definition word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


def split(count: int) -> int:
    half = 1
    while half * 2 < count:
        half *= 2
    return half


def naive_inclusion(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return [*naive_inclusion(index, leaves[:half]), naive_root(leaves[half:])]
    return [*naive_inclusion(index - half, leaves[half:]), naive_root(leaves[:half])]


def naive_subtree(start: int, end: int, leaves: Sequence[bytes], *, known: bool = True) -> list[bytes]:
    """draft-ietf-plants-merkle-tree-certs, 4.4; with start 0 it is RFC 6962, 2.1.2."""
    if (start, end) == (0, len(leaves)):
        return [] if known else [naive_root(leaves)]
    half = split(len(leaves))
    if end <= half:
        return [*naive_subtree(start, end, leaves[:half], known=known), naive_root(leaves[half:])]
    if half <= start:
        return [*naive_subtree(start - half, end - half, leaves[half:], known=known), naive_root(leaves[:half])]
    return [*naive_subtree(0, end - half, leaves[half:], known=False), naive_root(leaves[:half])]


def is_subtree(start: int, end: int) -> bool:
    width = 1
    while width < end - start:
        width *= 2
    return start % width == 0


@functools.cache
def full(level: int, index: int) -> bytes:
    return naive_root(LEAVES[index << level : (index + 1) << level])


def read(places: Sequence[Place]) -> list[bytes]:
    """The storage of these tests; it has full subtrees only."""
    assert all((index + 1) << level <= len(LEAVES) for level, index in places)
    return [full(level, index) for level, index in places]


@functools.cache
def root(size: int) -> bytes:
    return naive_root(LEAVES[:size])


class Huge:
    """A log too large to write down: all leaves are the same but for some, so that a root needs few hashes."""

    def __init__(self, others: Sequence[int]) -> None:
        self._others = {index: leaf_hash(index.to_bytes(8, "big")) for index in others}
        self.plain = functools.cache(self._plain)

    def _plain(self, count: int) -> bytes:
        if count == 1:
            return leaf_hash(b"the same")
        half = split(count)
        return node_hash(self.plain(half), self.plain(count - half))

    def root(self, start: int, end: int) -> bytes:
        inside = [index for index in self._others if start <= index < end]
        if not inside:
            return self.plain(end - start)
        if end - start == 1:
            return self._others[start]
        half = start + split(end - start)
        return node_hash(self.root(start, half), self.root(half, end))

    def read(self, places: Sequence[Place]) -> list[bytes]:
        return [self.root(index << level, (index + 1) << level) for level, index in places]


def refused(check: Callable[..., None], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except InvalidInput:
        return True
    return False


# Public vectors


def unbase64(text: str) -> bytes:
    return base64.b64decode(text)


def test_the_reference_tree_has_its_published_roots() -> None:
    vectors = VECTORS["rfc6962_tree"]
    leaves = [leaf_hash(bytes.fromhex(text)) for text in vectors["leaf_inputs_hex"]]
    frontier = Frontier()
    roots = [frontier.root()]
    for leaf in leaves:
        frontier.append(leaf)
        roots.append(frontier.root())

    assert EMPTY_ROOT.hex() == vectors["empty_root_hex"]
    assert [each.hex() for each in roots] == vectors["roots_hex"]
    assert [naive_root(leaves[:size]) for size in range(9)] == roots


@pytest.mark.parametrize("case", VECTORS["inclusion_cases"], ids=lambda case: case["desc"])
def test_inclusion_as_published(case: dict[str, Any]) -> None:
    proof = [unbase64(text) for text in case["proof"] or []]
    statement = unbase64(case["leafHash"]), case["leafIdx"], case["treeSize"], unbase64(case["root"]), proof

    assert refused(check_inclusion, *statement) == case["wantErr"]


@pytest.mark.parametrize(
    "case", [*VECTORS["consistency_cases"], *VECTORS["consistency_from_zero"]["cases"]], ids=lambda case: case["desc"]
)
def test_consistency_as_published(case: dict[str, Any]) -> None:
    proof = [unbase64(text) for text in case["proof"] or []]
    statement = case["size1"], unbase64(case["root1"]), case["size2"], unbase64(case["root2"]), proof

    # Those from size 0 are wrong for a witness too; what it takes is tested below.
    assert refused(check_consistency, *statement) == case["wantErr"]


def test_from_an_empty_log_everything_follows_with_an_empty_proof() -> None:
    check_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    check_consistency(0, EMPTY_ROOT, 7, root(7), [])

    assert prove_consistency(0, 7, read) == []
    assert refused(check_consistency, 0, EMPTY_ROOT, 7, root(7), [root(7)])
    assert refused(check_consistency, 0, root(1), 7, root(7), [])
    assert refused(check_consistency, 0, EMPTY_ROOT, 0, root(1), [])


# Against the definition


def test_roots_of_all_sizes_to_600() -> None:
    frontier = Frontier()
    for size in range(601):
        assert tree_root(size, read) == root(size)
        assert frontier.root() == root(size)
        assert frontier.hashes == ([] if size == 0 else read(subtrees(0, size)))
        if size < 600:
            frontier.append(LEAVES[size])


def test_every_proof_of_small_trees() -> None:
    """All subtrees of all sizes up to 33, leaves and beginnings among them, are as defined, and are accepted."""
    for size in range(1, 34):
        for start in range(size):
            for end in filter(functools.partial(is_subtree, start), range(start + 1, size + 1)):
                proof = prove_subtree(start, end, size, read)
                assert proof == naive_subtree(start, end, LEAVES[:size])
                assert range_root(start, end, read) == naive_root(LEAVES[start:end])
                check_subtree(start, end, naive_root(LEAVES[start:end]), size, root(size), proof)
            proof = prove_inclusion(start, size, read)
            assert proof == naive_inclusion(start, LEAVES[:size])
            check_inclusion(LEAVES[start], start, size, root(size), proof)
        for old in range(1, size + 1):
            check_consistency(old, root(old), size, root(size), prove_consistency(old, size, read))


@effort(max_examples=150, deadline=None)
@given(st.data())
def test_proofs_of_trees_up_to_2_to_the_40(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 1 << 40))
    index, old, other = (data.draw(st.integers(1, size - 1)) for _ in range(3))
    width = 1 << data.draw(st.integers(0, size.bit_length() - 1))
    start = index // width * width
    end = min(start + data.draw(st.integers(1, width)), size)
    log = Huge([index, other, start, old - 1])
    whole = log.root(0, size)

    assert tree_root(size, log.read) == whole
    inclusion = prove_inclusion(index, size, log.read)
    check_inclusion(log.root(index, index + 1), index, size, whole, inclusion)
    assert refused(check_inclusion, log.plain(1), index, size, whole, inclusion)
    consistency = prove_consistency(old, size, log.read)
    check_consistency(old, log.root(0, old), size, whole, consistency)
    assert refused(check_consistency, old, log.plain(old), size, whole, consistency)
    part = prove_subtree(start, end, size, log.read)
    check_subtree(start, end, log.root(start, end), size, whole, part)
    assert max(map(len, (inclusion, consistency, part))) <= MAX_PROOF_HASHES


def test_storage_is_asked_once_for_a_proof() -> None:
    asked = []

    def once(places: Sequence[Place]) -> list[bytes]:
        asked.append(list(places))
        return read(places)

    prove_inclusion(5, 600, once)
    prove_consistency(300, 599, once)
    prove_inclusion(0, 1, once)

    assert len(asked) == 2


def test_storage_that_answers_short_is_not_believed() -> None:
    with pytest.raises(InvalidInput):
        prove_inclusion(5, 600, lambda places: read(places)[:-1])
    with pytest.raises(InvalidInput):
        prove_inclusion(5, 600, lambda places: [each[:-1] for each in read(places)])


# What must be refused

SIZES = (2, 3, 5, 7, 8, 11)


@pytest.mark.parametrize("size", SIZES)
def test_no_bit_of_a_proof_can_be_changed(size: int) -> None:
    """Every single bit of every proof, of the leaf, the old root and the root."""
    for place in range(size):
        for check, statement in (
            (check_inclusion, [LEAVES[place], place, size, root(size), prove_inclusion(place, size, read)]),
            (check_consistency, [place, root(place), size, root(size), prove_consistency(place, size, read)]),
        ):
            if check is check_consistency and place == 0:
                continue
            assert not refused(check, *statement)
            for flipped in flips(statement):
                assert refused(check, *flipped)


def flips(statement: list[Any]) -> list[list[Any]]:
    found = []
    for at, value in enumerate(statement):
        if isinstance(value, bytes):
            found += [[*statement[:at], each, *statement[at + 1 :]] for each in flipped(value)]
    proof = statement[-1]
    for at, value in enumerate(proof):
        found += [[*statement[:-1], [*proof[:at], each, *proof[at + 1 :]]] for each in flipped(value)]
    return found


def flipped(value: bytes) -> list[bytes]:
    whole = int.from_bytes(value, "big")
    return [(whole ^ 1 << bit).to_bytes(len(value), "big") for bit in range(8 * len(value))]


@pytest.mark.parametrize("size", SIZES)
def test_a_proof_serves_no_other_place_and_no_other_log(size: int) -> None:
    """Every other index, old size and size, each with the root that belongs to it."""
    for place in range(size):
        proof = prove_inclusion(place, size, read)
        for other in range(-1, 14):
            if other != place:
                assert refused(check_inclusion, LEAVES[place], other, size, root(size), proof)
            if other != size:
                assert refused(check_inclusion, LEAVES[place], place, other, root(max(other, 0)), proof)
    for old in range(1, size):
        proof = prove_consistency(old, size, read)
        for other in range(-1, 14):
            if other != old:
                assert refused(check_consistency, other, root(max(other, 0)), size, root(size), proof)
                assert refused(check_consistency, other, root(old), size, root(size), proof)
            if other != size:
                assert refused(check_consistency, old, root(old), other, root(max(other, 0)), proof)


@pytest.mark.parametrize("size", SIZES)
def test_a_proof_is_exactly_as_long_as_it_must_be(size: int) -> None:
    for place in range(1, size):
        for check, statement in (
            (check_inclusion, (LEAVES[place], place, size, root(size))),
            (check_consistency, (place, root(place), size, root(size))),
        ):
            prove = prove_inclusion if check is check_inclusion else prove_consistency
            proof = prove(place, size, read)
            wrong = [proof[:-1], proof[1:], [*proof, proof[-1]], [EMPTY_ROOT, *proof], [each[:-1] for each in proof]]
            wrong += [[each + b"\0" for each in proof], [], *([proof[::-1]] if len(proof) > 1 else [])]
            for each in wrong:
                assert refused(check, *statement, each)


def test_the_same_size_with_another_root_shows_two_faces() -> None:
    with pytest.raises(InvalidInput, match="two faces"):
        check_consistency(5, root(5), 5, root(6), [])
    check_consistency(5, root(5), 5, root(5), [])


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (1, 1), (1, 3), (2, 5), (3, 2), (-4, 0), (-1, 0), (4, 9), (6, 9), (MAX_SIZE, MAX_SIZE + 1)],
)
def test_what_is_no_subtree_is_refused(start: int, end: int) -> None:
    for call in (
        lambda: prove_subtree(start, end, 8, read),
        lambda: check_subtree(start, end, LEAVES[0], 8, root(8), []),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_sizes_beyond_the_limit_are_refused() -> None:
    for size in (-1, MAX_SIZE + 1, 1 << 64, 1 << 70):
        for call in (
            functools.partial(tree_root, size, read),
            functools.partial(prove_inclusion, 0, size, read),
            functools.partial(prove_consistency, 1, size, read),
            functools.partial(Frontier, size),
            functools.partial(check_inclusion, LEAVES[0], 0, size, root(1), []),
            functools.partial(check_consistency, 1, root(1), size, root(1), []),
        ):
            with pytest.raises(InvalidInput):
                call()
    with pytest.raises(InvalidInput):
        Frontier(MAX_SIZE, [root(1)] * 63).append(root(1))


def test_the_greatest_log_can_be_proved() -> None:
    log = Huge([0, MAX_SIZE - 1])
    for index in (0, MAX_SIZE - 1, MAX_SIZE // 3):
        proof = prove_inclusion(index, MAX_SIZE, log.read)
        check_inclusion(log.root(index, index + 1), index, MAX_SIZE, log.root(0, MAX_SIZE), proof)
        assert len(proof) <= MAX_PROOF_HASHES
    old = MAX_SIZE // 2 + (1 << 20)
    proof = prove_consistency(old, MAX_SIZE, log.read)
    check_consistency(old, log.root(0, old), MAX_SIZE, log.root(0, MAX_SIZE), proof)


# Growing

FAST = FastHasher()
HASHERS: dict[str, Hasher] = {"plain": PlainHasher(), "fast": FAST, "chosen": make_hasher()}


@effort(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 150), max_size=8), st.sampled_from(sorted(HASHERS)))
def test_growing_in_batches_gives_the_same_tree(batches: list[int], name: str) -> None:
    """Root, kept hashes and completed subtrees do not depend on how the leaves are cut into batches."""
    frontier, single = Frontier(), Frontier()
    seen: dict[Place, bytes] = {}
    expected: dict[Place, bytes] = {}
    for batch in batches:
        leaves = LEAVES[single.size : single.size + batch]
        for run in frontier.extend(b"".join(leaves), HASHERS[name]):
            collect(run, seen)
        for leaf in leaves:
            for run in single.append(leaf):
                collect(run, expected)

        assert frontier.size == single.size
        assert frontier.hashes == single.hashes
        assert frontier.root() == root(single.size)
    size = single.size
    assert seen == expected
    assert set(seen) == {(level, index) for level in range(1, 11) for index in range(size >> level)}
    assert all(value == full(*place) for place, value in seen.items())


def collect(run: Run, into: dict[Place, bytes]) -> None:
    assert run.level > 0
    for number in range(len(run.hashes) // 32):
        place = (run.level, run.first + number)
        assert place not in into
        into[place] = run.hashes[32 * number : 32 * number + 32]


@given(st.integers(0, 599))
def test_growing_goes_on_from_what_was_kept(size: int) -> None:
    before = Frontier()
    before.extend(b"".join(LEAVES[:size]), HASHERS["plain"])

    after = Frontier(before.size, before.hashes)
    after.append(LEAVES[size])

    assert after.root() == root(size + 1)
    for wrong in (before.hashes[1:] if size else [root(1)], [*before.hashes, root(1)], [b"short"] * size.bit_count()):
        if len(wrong) != size.bit_count() or b"short" in wrong:
            with pytest.raises(InvalidInput):
                Frontier(size, wrong)


def test_a_frontier_stays_as_it_was_after_an_error() -> None:
    class Failing(PlainHasher):
        def nodes(self, hashes: Any) -> bytes:
            if len(hashes) < 200:
                raise MemoryError
            return super().nodes(hashes)

    frontier = Frontier()
    frontier.extend(b"".join(LEAVES[:7]), PlainHasher())

    with pytest.raises(InvalidInput):
        frontier.extend(b"".join(LEAVES[7:9]) + b"x", PlainHasher())
    with pytest.raises(InvalidInput):
        frontier.append(b"x")
    with pytest.raises(MemoryError):
        frontier.extend(b"".join(LEAVES[7:30]), Failing())
    assert (frontier.size, frontier.root()) == (7, root(7))


# Hashing in batches


@pytest.fixture(params=sorted(HASHERS))
def hasher(request: pytest.FixtureRequest) -> Hasher:
    return HASHERS[request.param]


def numbers(values: Sequence[int]) -> memoryview:
    return memoryview(array.array("q", values))


def test_every_length_of_an_entry(hasher: Hasher) -> None:
    """Lengths 0 to 260 at every alignment: each way the padding can fall, in one buffer and at its edges."""
    for gap in range(4):
        data, starts, ends = bytearray(b"\xff" * gap), [], []
        for length in range(261):
            starts.append(len(data))
            data += hashlib.shake_128(bytes([gap, length & 255])).digest(length)
            ends.append(len(data))
            data += b"\xff" * gap
        expected = b"".join(
            hashlib.sha256(b"\x00" + data[start:end]).digest() for start, end in zip(starts, ends, strict=True)
        )

        assert hasher.leaves(data, numbers(starts), numbers(ends)) == expected
        assert hasher.leaves(bytes(data), numbers(starts[::-1]), numbers(ends[::-1])) == swapped(expected)


def swapped(hashes: bytes) -> bytes:
    return b"".join(hashes[at : at + 32] for at in reversed(range(0, len(hashes), 32)))


@effort(max_examples=150, deadline=None)
@given(st.data())
def test_entries_anywhere_in_a_buffer(data: st.DataObject) -> None:
    """Overlapping, backwards, empty, at the very end; in bytes, bytearrays and views that are not aligned."""
    content = data.draw(st.binary(max_size=700))
    skip = data.draw(st.integers(0, min(5, len(content))))
    size = len(content) - skip
    pairs = data.draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, size)), min_size=24, max_size=60))
    starts, ends = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
    expected = [leaf_hash(content[skip + start : skip + end]) for start, end in zip(starts, ends, strict=True)]

    for name, each in HASHERS.items():
        for buffer in (content[skip:], bytearray(content[skip:]), memoryview(content)[skip:]):
            assert each.leaves(buffer, numbers(starts), numbers(ends)) == b"".join(expected), name


@effort(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=50), st.data())
def test_bundles_hold_their_entries_or_are_refused(entries: list[bytes], data: st.DataObject) -> None:
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    cut = data.draw(st.integers(0, len(bundle)))
    ends = [0]
    for entry in entries:
        ends.append(ends[-1] + 2 + len(entry))

    for each in HASHERS.values():
        assert each.bundle(bundle) == b"".join(map(leaf_hash, entries))
        if cut in ends:
            assert each.bundle(bundle[:cut]) == b"".join(map(leaf_hash, entries[: ends.index(cut)]))
        else:
            with pytest.raises(InvalidInput, match="cut short"):
                each.bundle(memoryview(bundle)[:cut])


@effort(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 200))
def test_nodes_are_hashes_of_pairs(seed: bytes, count: int) -> None:
    content = hashlib.shake_128(seed).digest(64 * count + 1)
    expected = b"".join(node_hash(content[at : at + 32], content[at + 32 : at + 64]) for at in range(0, 64 * count, 64))

    for each in HASHERS.values():
        assert each.nodes(content[:-1]) == expected
        assert each.nodes(bytearray(content[:-1])) == expected
        moved = memoryview(b"x" + content[:-1])[1:]
        assert each.nodes(moved) == expected


def test_bounds_outside_the_data_are_refused(hasher: Hasher) -> None:
    """Compiled code looks at no bounds, so each wrong pair must be caught before it, alone and among many."""
    for wrong in ((-1, 3), (3, 2), (0, 9), (9, 9), (-(1 << 63), 0), (0, (1 << 63) - 1), (-1, -1)):
        for before in (0, 40):
            starts, ends = [0] * before + [wrong[0]], [8] * before + [wrong[1]]
            with pytest.raises(InvalidInput, match=f"entry {before} does not lie"):
                hasher.leaves(b"12345678", numbers(starts), numbers(ends))
    for count in (1, 40):
        with pytest.raises(InvalidInput):
            hasher.leaves(b"12345678", numbers([0] * count), numbers([0] * (count - 1)))
        with pytest.raises(InvalidInput):
            hasher.leaves(b"12345678", bytes(8 * count + 3), bytes(8 * count + 3))


def test_nothing_gives_nothing(hasher: Hasher) -> None:
    assert hasher.leaves(b"", b"", b"") == b""
    assert hasher.bundle(b"") == b""
    assert hasher.nodes(b"") == b""


@pytest.mark.parametrize("size", [1, 31, 32, 63, 65, 96, 32 * 51])
def test_what_is_no_even_number_of_hashes_is_refused(hasher: Hasher, size: int) -> None:
    with pytest.raises(InvalidInput):
        hasher.nodes(bytes(size))


def test_threads_hash_side_by_side() -> None:
    """The GIL is released, and no two calls share anything they write to."""
    bundles = [b"".join(b"\x00\x50" + bytes([number]) * 80 for _ in range(400)) for number in range(4)]
    found: dict[int, bytes] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = FAST.nodes(FAST.bundle(bundles[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    plain = PlainHasher()
    assert found == {number: plain.nodes(plain.bundle(bundles[number])) for number in range(4)}


def test_without_numba_the_plain_hasher_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shieldwall.ledger.merkle_kernels", None)

    assert isinstance(make_hasher(), PlainHasher)


def test_a_machine_that_counts_from_the_other_end_is_not_given_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")

    assert isinstance(make_hasher(), PlainHasher)


def test_the_tree_alone_loads_no_numeric_stack() -> None:
    code = (
        "import sys, shieldwall.ledger.merkle, shieldwall.ledger.merkle_hasher;"
        "print(sorted({'numba', 'numpy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
