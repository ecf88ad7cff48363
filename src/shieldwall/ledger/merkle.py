# SPDX-License-Identifier: Apache-2.0
"""Merkle tree hashes and proofs: what makes a log of entries impossible to rewrite unnoticed.

RFC 6962 section 2.1 with SHA-256: an entry is hashed behind a byte 00, two hashes behind a byte 01, and a tree of n
leaves is split at the greatest power of two below n. Nothing here knows storage: proofs are built from a function that
reads hashes of full subtrees, which a tile tree can answer in one go.

One walk serves every proof. A *subtree* [start, end) of a log of `size` entries, where start is a multiple of the least
power of two that is no smaller than end - start, is proved to lie in the tree of the whole log (C2SP tlog-mirror, after
draft-ietf-plants-merkle-tree-certs section 4.4). A single leaf [i, i + 1) makes it an inclusion proof, a beginning
[0, m) a consistency proof, both to the byte as RFC 6962 has them.

Checking functions raise; they return nothing.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from shieldwall.core.errors import InvalidInput

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_PROOF_HASHES",
    "MAX_SIZE",
    "Buffer",
    "Frontier",
    "Hasher",
    "Place",
    "PlainHasher",
    "Read",
    "Run",
    "check_consistency",
    "check_inclusion",
    "check_subtree",
    "leaf_hash",
    "node_hash",
    "prove_consistency",
    "prove_inclusion",
    "prove_subtree",
    "range_root",
    "subtrees",
    "tree_root",
]

HASH_BYTES = 32

EMPTY_ROOT = hashlib.sha256().digest()
"""Root of a log without entries."""

MAX_SIZE = (1 << 63) - 1
"""Greatest number of entries: what fits a signed 64-bit number in every implementation."""

MAX_PROOF_HASHES = 63
"""Greatest proof of a log of that size, and what a witness takes."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes in one piece. A numpy array is handed over as `memoryview(array)`, contiguous."""

Place: TypeAlias = tuple[int, int]
"""A full subtree, level and index: it holds the leaves [index << level, (index + 1) << level)."""

Read: TypeAlias = Callable[[Sequence[Place]], Sequence[bytes]]
"""Gives the hashes of full subtrees, in the order asked. Asked once per proof, so that storage is asked once."""

_ENTRY = b"\x00"
_NODE = b"\x01"
_PAIR_BYTES = 2 * HASH_BYTES
_NUMBER_BYTES = 8
_REFETCH = "the proof was cut or changed, or belongs to another log: fetch it again, and keep both if it fails again"

# How the tree grows around a subtree, one step per level: what the hash beside it is.
_AFTER = 0
"""It covers what comes after the subtree."""
_BEFORE = 1
"""It covers what comes before the subtree."""
_WITHIN = 2
"""It covers the first part of the subtree itself, of which the walk follows the rest."""

_Step: TypeAlias = tuple[int, int, int]
"""What the hash beside is, and the range of leaves it covers."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of an entry as a leaf, 32 bytes."""
    return hashlib.sha256(_ENTRY + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two neighbouring subtrees, 32 bytes."""
    return hashlib.sha256(_NODE + left + right).digest()


class Hasher(Protocol):
    """Hashes many leaves or nodes in one call. Every implementation gives the same bytes; safe between threads."""

    def leaves(self, data: Buffer, starts: Buffer, ends: Buffer) -> bytes:
        """Leaf hashes of the entries data[starts[i]:ends[i]], one after the other.

        Args:
            data: Where all the entries lie.
            starts: Signed 64-bit numbers of this machine, as in `array.array("q")`.
            ends: As many. Where entries touch, both are slices of one array of offsets.

        Raises:
            InvalidInput: The bounds do not fit each other or the data.
        """
        ...

    def bundle(self, data: Buffer) -> bytes:
        """Leaf hashes of the entries of C2SP entry bundles, any number of them behind each other.

        Args:
            data: Of every entry its length in two bytes, big-endian, and its bytes.

        Raises:
            InvalidInput: The last entry is cut short.
        """
        ...

    def nodes(self, hashes: Buffer) -> bytes:
        """Hashes of one level of the tree out of those of the level below: of every pair one.

        Args:
            hashes: An even number of hashes of 32 bytes.

        Raises:
            InvalidInput: It is no even number of hashes.
        """
        ...


class PlainHasher:
    """Implements `Hasher` with hashlib: about 0.6 µs a hash, of which half is Python. Holds the GIL."""

    def leaves(self, data: Buffer, starts: Buffer, ends: Buffer) -> bytes:
        """See `Hasher.leaves`."""
        begin, stop = _numbers(starts), _numbers(ends)
        if len(begin) != len(stop):
            raise bad_bounds(min(len(begin), len(stop)))
        content = memoryview(data).cast("B")
        size = len(content)
        found = []
        for index, (start, end) in enumerate(zip(begin, stop, strict=True)):
            if not 0 <= start <= end <= size:
                raise bad_bounds(index)
            found.append(hashlib.sha256(_ENTRY + content[start:end]).digest())
        return b"".join(found)

    def bundle(self, data: Buffer) -> bytes:
        """See `Hasher.bundle`."""
        content = memoryview(data).cast("B")
        found: list[bytes] = []
        at = 0
        while at < len(content):
            start = at + 2
            end = start + int.from_bytes(content[at:start], "big")
            if max(start, end) > len(content):
                raise bad_frame(len(found), at)
            found.append(hashlib.sha256(_ENTRY + content[start:end]).digest())
            at = end
        return b"".join(found)

    def nodes(self, hashes: Buffer) -> bytes:
        """See `Hasher.nodes`."""
        content = bytes(hashes)
        if len(content) % _PAIR_BYTES:
            raise bad_hashes(len(content))
        sha256 = hashlib.sha256
        pairs = range(0, len(content), _PAIR_BYTES)
        return b"".join([sha256(_NODE + content[at : at + _PAIR_BYTES]).digest() for at in pairs])


def bad_bounds(index: int) -> InvalidInput:
    """Give the error about an entry that does not lie in its data."""
    return InvalidInput(f"entry {index} does not lie within the data", hint="read the entries and their bounds again")


def bad_frame(index: int, offset: int) -> InvalidInput:
    """Give the error about a bundle that stops inside an entry."""
    return InvalidInput(
        f"entry {index} of the bundle is cut short (offset {offset})", hint="fetch the bundle again, at its full width"
    )


def bad_hashes(size: int) -> InvalidInput:
    """Give the error about bytes that are no whole level."""
    return InvalidInput(f"{size} bytes are no even number of hashes", hint=f"every hash has {HASH_BYTES} bytes")


class Run(msgspec.Struct, frozen=True):
    """Hashes of full subtrees that follow each other on one level."""

    level: int
    first: int
    """Index of the first of them on its level."""
    hashes: bytes


class Frontier:
    """The right edge of a growing tree: all that is needed to append, and to give the root at any time.

    It keeps one hash per bit that is set in the size, so at most 63. Appending in batches of n takes memory for two
    times n hashes, however large the log is. Not safe between threads.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Begin anew, or where `size` and `hashes` of an earlier one left off."""
        _check_size(size)
        levels = [level for level in reversed(range(size.bit_length())) if size >> level & 1]
        _check_hashes(hashes, len(levels))
        self._size = size
        self._held = dict(zip(levels, hashes, strict=True))

    @property
    def size(self) -> int:
        """Leaves appended so far."""
        return self._size

    @property
    def hashes(self) -> list[bytes]:
        """Hashes of the full subtrees it consists of, greatest and leftmost first: those of `subtrees(0, size)`."""
        return [self._held[level] for level in sorted(self._held, reverse=True)]

    def root(self) -> bytes:
        """Root of the tree over all leaves so far."""
        return _fold(self.hashes) if self._held else EMPTY_ROOT

    def append(self, leaf: bytes) -> list[Run]:
        """Append one leaf hash. Returns the subtrees it completed, level 1 first; none for every other leaf.

        Raises:
            InvalidInput: It is no hash, or the log is full.
        """
        _check_hashes((leaf,), 1)
        _check_size(self._size + 1)
        runs = []
        level, index, found = 0, self._size, leaf
        while index & 1:
            found = node_hash(self._held.pop(level), found)
            level, index = level + 1, index >> 1
            runs.append(Run(level, index, found))
        self._held[level] = found
        self._size += 1
        return runs

    def extend(self, leaves: Buffer, hasher: Hasher) -> list[Run]:
        """Append many leaf hashes, given one after the other. Much faster than one by one.

        Returns:
            The subtrees that became full, one run per level from 1 upward: what a tile tree has to store of them. An
            error leaves the frontier as it was.

        Raises:
            InvalidInput: They are no whole number of hashes, or too many.
        """
        count, rest = divmod(memoryview(leaves).nbytes, HASH_BYTES)
        if rest:
            raise bad_hashes(memoryview(leaves).nbytes)
        _check_size(self._size + count)
        runs = []
        held = dict(self._held)
        level, first, row = 0, self._size, bytes(leaves)
        while row:
            if level:
                runs.append(Run(level, first, row))
            if first & 1:
                row = held.pop(level) + row
                first -= 1
            if len(row) % _PAIR_BYTES:
                held[level] = row[-HASH_BYTES:]
                row = row[:-HASH_BYTES]
            row = hasher.nodes(row)
            level, first = level + 1, first >> 1
        self._held, self._size = held, self._size + count
        return runs


def subtrees(start: int, end: int) -> list[Place]:
    """Full subtrees a subtree [start, end) consists of, from left to right. The tree of a whole log is [0, size).

    Raises:
        InvalidInput: It is no subtree.
    """
    _check_subtree(start, end, MAX_SIZE)
    return _parts(start, end)


def range_root(start: int, end: int, read: Read) -> bytes:
    """Root of the subtree [start, end): of the tree over its entries alone.

    Raises:
        InvalidInput: It is no subtree.
    """
    return _fold(_asked(read, subtrees(start, end)))


def tree_root(size: int, read: Read) -> bytes:
    """Root of the log as it was with `size` entries. Raises InvalidInput where the size is not possible."""
    _check_size(size)
    return range_root(0, size, read) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, read: Read) -> list[bytes]:
    """Prove that an entry is in the log of `size` entries. The hash beside the leaf comes first, the root's child last.

    Raises:
        InvalidInput: There is no such entry.
    """
    _check_index(index, size)
    return prove_subtree(index, index + 1, size, read)


def prove_consistency(old_size: int, size: int, read: Read) -> list[bytes]:
    """Prove that the log of `size` entries begins with that of `old_size`. Empty from 0, and from equal sizes.

    Raises:
        InvalidInput: The sizes are not possible, or the old one is the greater.
    """
    _check_sizes(old_size, size)
    return prove_subtree(0, old_size, size, read) if old_size else []


def prove_subtree(start: int, end: int, size: int, read: Read) -> list[bytes]:
    """Prove that the subtree [start, end) lies in the log of `size` entries.

    Raises:
        InvalidInput: It is no subtree of such a log.
    """
    _check_subtree(start, end, size)
    at, steps = _walk(start, end, size)
    ranges = [(low, high) for _, low, high in reversed(steps)]
    if (at, at + end - at) != (start, end):
        ranges.insert(0, (at, end))
    groups = [_parts(low, high) for low, high in ranges]
    hashes = iter(_asked(read, [place for group in groups for place in group]))
    return [_fold([next(hashes) for _ in group]) for group in groups]


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that a leaf hash is the one at `index` in the log of `size` entries with this root.

    Raises:
        InvalidInput: It is not, or the proof is not exactly what it should be.
    """
    _check_index(index, size)
    check_subtree(index, index + 1, leaf, size, root, proof)


def check_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that the log of `size` entries begins with that of `old_size`: nothing was changed or taken away.

    From size 0 the proof is empty and the old root that of the empty log, as a witness has it. For equal sizes the
    proof is empty and the roots are the same. Size and root must come from one checkpoint, as with every check here:
    a root alone does not bind the size.

    Raises:
        InvalidInput: It does not, or the proof is not exactly what it should be.
    """
    _check_sizes(old_size, size)
    if old_size and old_size < size:
        check_subtree(0, old_size, old_root, size, root, proof)
        return
    _check_hashes(proof, 0)
    if old_size == 0:
        _check_hashes((root,), 1)
        if old_root != EMPTY_ROOT:
            raise InvalidInput("the old root is not that of a log without entries", hint=_REFETCH)
    if old_size == size and old_root != root:
        raise InvalidInput(
            f"two roots for the same {size} entries: the log shows two faces", hint="keep both, report it"
        )


def check_subtree(start: int, end: int, found: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that the subtree [start, end) with the hash `found` lies in the log of `size` entries with this root.

    Raises:
        InvalidInput: It does not, it is no subtree, or the proof is not exactly what it should be.
    """
    _check_subtree(start, end, size)
    at, steps = _walk(start, end, size)
    is_cut = at != start
    _check_hashes(proof, len(steps) + is_cut)
    _check_hashes((found,), 1)
    hashes = iter(proof)
    inner = outer = next(hashes) if is_cut else found
    for (side, _, _), beside in zip(reversed(steps), hashes, strict=True):
        if side == _AFTER:
            outer = node_hash(outer, beside)
        else:
            outer = node_hash(beside, outer)
            if side == _WITHIN:
                inner = node_hash(beside, inner)
    if inner != found or outer != root:
        raise InvalidInput(
            f"the proof does not lead from [{start}, {end}) to the root of {size} entries", hint=_REFETCH
        )


def _walk(start: int, end: int, size: int) -> tuple[int, list[_Step]]:
    """Go from the root down to the subtree.

    Returns:
        Where the walk ended, and its steps from the root down. It ends at `start`, or, where the subtree is no node of
        the tree, at the part [at, end) of it that is its last one.
    """
    low, high = 0, size
    steps = []
    at = start
    while (low, high) != (at, end):
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if end <= middle:
            steps.append((_AFTER, middle, high))
            high = middle
        elif at >= middle:
            steps.append((_BEFORE, low, middle))
            low = middle
        else:
            # As it is a subtree and is split here, it begins where this node does.
            steps.append((_WITHIN, low, middle))
            low = at = middle
    return at, steps


def _parts(start: int, end: int) -> list[Place]:
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append((level, start >> level))
        start += 1 << level
    return parts


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Root of full subtrees that follow each other, each smaller than the one before."""
    found = hashes[-1]
    for left in reversed(hashes[:-1]):
        found = node_hash(left, found)
    return found


def _asked(read: Read, places: Sequence[Place]) -> Sequence[bytes]:
    hashes = read(places) if places else []
    _check_hashes(hashes, len(places))
    return hashes


def _numbers(data: Buffer) -> memoryview:
    view = memoryview(data).cast("B")
    if len(view) % _NUMBER_BYTES:
        raise InvalidInput("the bounds of the entries are not 64-bit numbers")
    return view.cast("q")


def _check_hashes(hashes: Sequence[bytes] | Iterable[bytes], count: int) -> None:
    lengths = [len(each) for each in hashes]
    if len(lengths) != count:
        raise InvalidInput(f"{len(lengths)} hashes where there must be {count}", hint=_REFETCH)
    if lengths.count(HASH_BYTES) != count:
        raise InvalidInput(f"a hash has not {HASH_BYTES} bytes", hint=_REFETCH)


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise InvalidInput(f"a log has 0 to {MAX_SIZE} entries, not {size}")


def _check_sizes(old_size: int, size: int) -> None:
    _check_size(size)
    if not 0 <= old_size <= size:
        raise InvalidInput(f"a log of {size} entries cannot begin with one of {old_size}")


def _check_index(index: int, size: int) -> None:
    _check_size(size)
    if not 0 <= index < size:
        raise InvalidInput(f"there is no entry {index} in a log of {size} entries")


def _check_subtree(start: int, end: int, size: int) -> None:
    _check_size(size)
    if not 0 <= start < end <= size or start & (1 << (end - start - 1).bit_length()) - 1:
        raise InvalidInput(f"[{start}, {end}) is no subtree of a log of {size} entries")
