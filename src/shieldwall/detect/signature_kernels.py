# SPDX-License-Identifier: Apache-2.0
"""The loops behind `detect.signatures`: numba over flat arrays, imported only where an index is made.

Known pieces are rows: the low 32 bits of their values, one after the other in `held`. A row's `INDEXED` smallest values
lead to it through one open hash table, `slots`: 32 bits of value above 32 bits of row number plus one, zero when free.
Under one value stand at most `SHARED` rows, those of the lowest rank; ranks come from the rows' content, so what the
table holds does not depend on the order of inserts, and no value can make a look-up long.

A look-up goes in two steps. Every value of the text is looked for in the table, and rows that were met often enough are
compared whole: how many of their values stand in one window of the text? Which values stand in which block is a small
table of the look-up's own, one bit per block, so a text is taken in stretches of 64 blocks that overlap by a window.
"""

from typing import Any, Final, TypeAlias

import numpy as np

from shieldwall.core.sketch import BLOCK, KEPT, PIECE
from shieldwall.core.sketch_kernels import kernel

__all__ = ["INDEXED", "SHARED", "add_rows", "add_text", "find_text", "match"]

Array: TypeAlias = Any
Word: TypeAlias = Any

INDEXED: Final = 16
"""Values that lead to a row. A text that keeps 30 % of them misses all 16 once in 300 times."""
SHARED: Final = 16
"""Rows under one value. Chosen by measurement at a million pieces cut from the same 10,000 texts, of which 30 % of the
words were then changed: 8 finds 78 % of them, 16 finds 87 %, 32 finds 91 %, and a look-up of a known text takes 72, 160
and 140 us on a busy machine."""
_MET: Final = 2
"""How many of a row's values a text must have for the row to be compared whole."""
_COMPARED: Final = 96
"""Rows compared whole for a stretch of text: what keeps the worst look-up short. Where all that are left were met
equally often there may be more. 256 find no more than 96 do."""

_BLOCKS: Final = 64
_WIDEST: Final = (PIECE + PIECE // 4 + BLOCK - 1) // BLOCK + 1
"""Blocks of the widest window."""
_STRETCH: Final = _BLOCKS * BLOCK
_STEP: Final = (_BLOCKS - _WIDEST) * BLOCK
_NONE: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_LOW: Final = np.uint64(0xFFFFFFFF)
_UP: Final = np.uint64(32)
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


@kernel
def _place(low: Word, mask: Word) -> Word:
    """Where a value's search begins: its bits are even already, but `slots` is longer than 16 bits can address."""
    return (low * _SPREAD >> _UP) & mask


@kernel
def _add_value(low: Word, row: Word, slots: Array, ranks: Array) -> int:
    """Let a value lead to a row. Gives 1 when a free slot was taken."""
    mask = np.uint64(slots.shape[0] - 1)
    slot = _place(low, mask)
    count = 0
    worst = slot
    worst_rank = _NONE
    while slots[slot] != _NONE:
        if slots[slot] >> _UP == low:
            rank = ranks[(slots[slot] & _LOW) - _ONE]
            count += 1
            if count == 1 or rank > worst_rank:
                worst, worst_rank = slot, rank
        slot = (slot + _ONE) & mask
    if count < SHARED:
        slots[slot] = (low << _UP) | (np.uint64(row) + _ONE)
        return 1
    if ranks[row] < worst_rank:
        slots[worst] = (low << _UP) | (np.uint64(row) + _ONE)
    return 0


@kernel
def add_rows(first: int, last: int, starts: Array, held: Array, ranks: Array, slots: Array) -> int:
    """Make rows live whose values and ranks are in place. Gives the number of slots taken."""
    taken = 0
    for row in range(first, last):
        start = starts[row]
        for place in range(start, min(start + INDEXED, starts[row + 1])):
            taken += _add_value(np.uint64(held[place]), row, slots, ranks)
    return taken


@kernel
def find_text(digest: Word, names: Array, digests: Array) -> int:
    """Number of the text with this digest, or -1."""
    mask = np.uint64(names.shape[0] - 1)
    slot = digest & mask
    while names[slot] != 0:
        text = np.int64(names[slot]) - 1
        if digests[text] == digest:
            return int(text)
        slot = (slot + _ONE) & mask
    return -1


@kernel
def add_text(text: int, names: Array, digests: Array) -> None:
    """Let the digest of a text lead to it; it is not there yet."""
    mask = np.uint64(names.shape[0] - 1)
    slot = digests[text] & mask
    while names[slot] != 0:
        slot = (slot + _ONE) & mask
    names[slot] = text + 1


@kernel
def _read(values: Array, first: int, last: int, keys: Array, masks: Array, slots: Array, met: Array) -> int:
    """Fill the look-up's own table from a stretch of values; give the rows that they lead to."""
    size = np.uint64(keys.shape[0] - 1)
    mask = np.uint64(slots.shape[0] - 1)
    different = np.empty(last - first, np.uint32)
    unlike = 0
    for at in range(first, last):
        value = values[at]
        if value == _NONE:
            continue
        low = value & _LOW
        bit = _ONE << np.uint64((at - first) // BLOCK)
        place = low & size
        while masks[place] != _NONE and keys[place] != low:
            place = (place + _ONE) & size
        if masks[place] == _NONE:
            keys[place] = low
            different[unlike] = low
            unlike += 1
        masks[place] |= bit
    # A loop of its own: each step waits for memory, and the processor runs ahead only while steps do not depend on it.
    count = 0
    for number in range(unlike):
        low = np.uint64(different[number])
        slot = _place(low, mask)
        while slots[slot] != _NONE:
            if slots[slot] >> _UP == low:
                met[count] = (slots[slot] & _LOW) - _ONE
                count += 1
            slot = (slot + _ONE) & mask
    return count


@kernel
def _often(met: Array, count: int, chosen: Array) -> int:
    """Rows that were met at least `_MET` times, each once; of more than `_COMPARED` those that were met most often."""
    size = 1
    while size < 2 * count:
        size *= 2
    seen = np.zeros(size, np.uint32)
    times = np.zeros(size, np.uint8)
    often = np.zeros(INDEXED + 1, np.int64)
    mask = np.uint64(size - 1)
    for number in range(count):
        row = met[number]
        place = (np.uint64(row) * _SPREAD >> _UP) & mask
        while times[place] != 0 and seen[place] != row:
            place = (place + _ONE) & mask
        seen[place] = row
        # Two values of a row may have the same low half, so that it is met twice by one.
        if times[place] < INDEXED:
            times[place] += 1
            often[times[place]] += 1
    least = _MET
    while least < INDEXED and often[least] > _COMPARED:
        least += 1
    found = 0
    for number in range(size):
        if times[number] >= least:
            chosen[found] = seen[number]
            found += 1
    return found


@kernel
def _count(row: Word, starts: Array, held: Array, need: Word, keys: Array, masks: Array, stand: Array) -> int:
    """How many values of a row stand in the stretch, and in which blocks; 0 where they are fewer than needed."""
    size = np.uint64(keys.shape[0] - 1)
    hits = 0
    left = starts[row + 1] - starts[row]
    for at in range(starts[row], starts[row + 1]):
        if hits + left < need:
            return 0
        left -= 1
        low = np.uint64(held[at])
        place = low & size
        while masks[place] != _NONE and keys[place] != low:
            place = (place + _ONE) & size
        if masks[place] != _NONE:
            stand[hits] = masks[place]
            hits += 1
    return hits


@kernel
def _best_window(stand: Array, width: Word) -> tuple[int, int]:
    """Most values that stand in one window, and the block where that window begins."""
    blocks = np.zeros(_BLOCKS, np.int32)
    for each in stand:
        # A window that begins up to `width - 1` blocks earlier holds the value too.
        begins = each
        for step in range(1, width):
            begins |= each >> np.uint64(step)
        block = 0
        while begins != _NONE:
            if begins & _ONE:
                blocks[block] += 1
            begins >>= _ONE
            block += 1
    best = 0
    for block in range(1, _BLOCKS):
        if blocks[block] > blocks[best]:
            best = block
    return blocks[best], best


@kernel
def match(values: Array, starts: Array, held: Array, widths: Array, slots: Array, needs: Array) -> Array:
    """Rows found in a text.

    Args:
        values: The text's values, uint64, zero for none.
        starts: Where each row begins in `held`; one more than there are rows.
        held: Low halves of the rows' values, uint32.
        widths: Blocks of each row's window.
        slots: The hash table.
        needs: Values that must stand in one window, by the number a row has.

    Returns:
        int64 array with a row, its values found and the first place of the window in each line.
    """
    out = np.empty((16, 3), np.int64)
    stand = np.empty(KEPT, np.uint64)
    found = 0
    for first in range(0, max(values.shape[0], 1), _STEP):
        last = min(first + _STRETCH, values.shape[0])
        size = 2
        while size < 2 * (last - first):
            size *= 2
        keys = np.empty(size, np.uint32)
        masks = np.zeros(size, np.uint64)
        met = np.empty((last - first) * SHARED, np.uint32)
        count = _read(values, first, last, keys, masks, slots, met)
        chosen = np.empty(count // _MET + 1, np.uint32)
        for number in range(_often(met, count, chosen)):
            row = np.int64(chosen[number])
            need = needs[starts[row + 1] - starts[row]]
            total = _count(row, starts, held, need, keys, masks, stand)
            if total < need:
                continue
            hits, block = _best_window(stand[:total], np.int64(widths[row]))
            if hits < need:
                continue
            if found == out.shape[0]:
                longer = np.empty((2 * found, 3), np.int64)
                longer[:found] = out
                out = longer
            out[found, 0], out[found, 1], out[found, 2] = row, hits, first + block * BLOCK
            found += 1
        if last == values.shape[0]:
            break
    return out[:found]
