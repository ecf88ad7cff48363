# SPDX-License-Identifier: Apache-2.0
"""What the fast tier computes, compiled: from folded bytes to words, and from those to a small convolution's responses.

A text is read as words: runs of letters, digits and bytes beyond ASCII; a character of a script without spaces is a
word of its own, so is each other sign and each run of line breaks. Digits count as one digit.

A convolution over words needs no products when it runs: what each word adds to each filter at each of `SPAN` places is
in a table, and a response is a sum of `SPAN` rows of it. Words stand in blocks of `BLOCK`; a window is two neighbouring
blocks. A response belongs to a window only if all the words it is made from lie inside, so what a window says does not
depend on its neighbours.
"""

from typing import Any, TypeAlias

import numpy as np

from shieldwall.core.sketch_kernels import kernel
from shieldwall.detect.fast_file import BLOCK, SPAN

Array: TypeAlias = Any
Word: TypeAlias = Any

EDGE = SPAN // 2
"""Empty words before and after a text, so that each of its words stands in the middle of a response."""
EMPTY, CAPITALS, FIXED = 0, 1, 2
"""Rows that are no words: nothing, and what is added to a word in capitals. Then come the pieces of unknown words."""
PIECES = 4096
"""Rows for the first bytes of unknown words, and as many for their last."""

_WORD, _SIGN, _BREAK = 1, 2, 3
_PIECE = 4


def _kinds() -> np.ndarray:
    """What each byte is, and what it counts as."""
    table = np.zeros((256, 2), np.uint8)
    for byte in range(256):
        char = chr(byte)
        if byte >= 128 or char.isalnum():
            counts_as = byte if byte >= 128 else ord("0" if char.isdigit() else char.lower())
            table[byte] = (_WORD, counts_as)
        elif byte > 32 and byte != 127:
            table[byte] = (_SIGN, byte)
    table[10] = (_BREAK, 10)
    return table


KINDS = _kinds()


@kernel
def _mix(value: Word) -> Word:
    value = np.uint32(value ^ (value >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    value = np.uint32(value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return np.uint32(value ^ (value >> np.uint32(16)))


@kernel
def _hash(data: Array, start: int, end: int, kinds: Array) -> Word:
    value = np.uint32(0x811C9DC5)
    for at in range(start, end):
        value = np.uint32((value ^ np.uint32(kinds[data[at], 1])) * np.uint32(0x01000193))
    return _mix(value)


@kernel
def words(data: Array, kinds: Array, hashes: Array, starts: Array, ends: Array, capitals: Array) -> int:
    """Words of a text.

    Args:
        data: Folded UTF-8, uint8.
        kinds: `KINDS`.
        hashes: Where the words' hashes go, uint32; as many as bytes is always enough, as for the next three.
        starts: Where they begin in the data, int32.
        ends: Where they end.
        capitals: Whether they are in capitals, uint8.

    Returns:
        How many words there are.
    """
    size = data.shape[0]
    count = 0
    at = 0
    while at < size:
        byte = data[at]
        kind = kinds[byte, 0]
        if kind == 0:
            at += 1
            continue
        start = at
        upper = 0
        if kind == 3:
            while at < size and kinds[data[at], 0] in (0, 3):
                at += 1
            hashes[count] = _hash(data, start, start + 1, kinds)
        elif kind == 2:
            at += 1
            hashes[count] = _hash(data, start, at, kinds)
        else:
            if byte >= 0xE3 or (byte == 0xE0 and at + 1 < size and data[at + 1] >= 0xB8):
                # A character of a script without spaces, or an emoji.
                at = min(size, at + (4 if byte >= 0xF0 else 3))
            else:
                while at < size and kinds[data[at], 0] == 1 and data[at] < 0xE3 and at - start < 64:
                    upper += 65 <= data[at] <= 90
                    at += 1
            hashes[count] = _hash(data, start, at, kinds)
        starts[count] = start
        ends[count] = at
        capitals[count] = upper >= 3 and upper == at - start
        count += 1
    return count


@kernel
def _place(words: Array, first_row: int, keys: Array, known: Array) -> None:
    mask = np.uint32(keys.shape[0] - 1)
    for number in range(words.shape[0]):
        place = words[number] & mask
        while known[place] != 0:
            place = (place + np.uint32(1)) & mask
        keys[place] = words[number]
        known[place] = first_row + number


def index(words: Array, first_row: int) -> tuple[Array, Array]:
    """Open table of the known words' hashes, at most half full: keys, uint32, and rows, int32, 0 where free."""
    size = 1 << max(4, (2 * len(words)).bit_length())
    keys, known = np.zeros(size, np.uint32), np.zeros(size, np.int32)
    _place(words, first_row, keys, known)
    return keys, known


@kernel
def rows(  # noqa: PLR0913, PLR0917  compiled: arrays are all it can take
    data: Array,
    kinds: Array,
    count: int,
    hashes: Array,
    starts: Array,
    ends: Array,
    capitals: Array,
    keys: Array,
    known: Array,
    first: Array,
    second: Array,
) -> None:
    """Rows of the table that stand for each word: two of them, whose sums the word is.

    Args:
        data: As for `words`.
        kinds: `KINDS`.
        count: What `words` gave.
        hashes: What it filled in, and so the next three.
        starts: See above.
        ends: See above.
        capitals: See above.
        keys: Hashes of the known words in an open table, uint32; its size is a power of two.
        known: Their rows, int32; 0 where the place is free.
        first: Where the first rows go, int32, with `EDGE` empty words around; `count + 2 * EDGE` long or longer.
        second: Where the second rows go.
    """
    mask = np.uint32(keys.shape[0] - 1)
    for at in range(EDGE):
        first[at] = EMPTY
        second[at] = EMPTY
        first[EDGE + count + at] = EMPTY
        second[EDGE + count + at] = EMPTY
    for word in range(count):
        place = hashes[word] & mask
        row = 0
        while known[place] != 0:
            if keys[place] == hashes[word]:
                row = known[place]
                break
            place = (place + np.uint32(1)) & mask
        if row != 0:
            first[EDGE + word] = row
            second[EDGE + word] = CAPITALS if capitals[word] else EMPTY
        else:
            start, end = starts[word], ends[word]
            head = _hash(data, start, min(end, start + _PIECE), kinds)
            tail = _hash(data, max(start, end - _PIECE), end, kinds)
            first[EDGE + word] = FIXED + (head & np.uint32(PIECES - 1))
            second[EDGE + word] = FIXED + PIECES + (tail & np.uint32(PIECES - 1))


@kernel
def _respond(first: Array, second: Array, size: int, table: Array, bias: Array, responses: Array) -> None:
    """Responses of all filters: each word adds its row to those it stands in."""
    filters = bias.shape[0]
    for at in range(EDGE, size - EDGE):
        for one in range(filters):
            responses[at, one] = bias[one]
    for at in range(size):
        row, more = first[at], second[at]
        # The word is the one at `place` of the response in whose middle `middle` stands.
        for place in range(SPAN):
            middle = at + EDGE - place
            if middle >= EDGE and middle < size - EDGE:
                for one in range(filters):
                    responses[middle, one] += np.int16(table[row, place, one])
                if more != EMPTY:
                    for one in range(filters):
                        responses[middle, one] += np.int16(table[more, place, one])


@kernel
def _pool(responses: Array, start: int, end: int, out: Array) -> None:
    """Greatest and sum of the responses in a range, those below zero as zero."""
    filters = responses.shape[1]
    for one in range(filters):
        out[0, one] = 0
        out[1, one] = 0
    for at in range(start, end):
        for one in range(filters):
            value = np.int32(max(responses[at, one], np.int16(0)))
            out[0, one] = max(out[0, one], value)
            out[1, one] += value


@kernel
def pools(  # noqa: PLR0913, PLR0917  compiled: arrays are all it can take
    first: Array, second: Array, size: int, table: Array, bias: Array, responses: Array, inner: Array, across: Array
) -> int:
    """Responses of all filters, and their greatest and their sum per block.

    Args:
        first: Rows of the words, the empty ones included, int32.
        second: Second rows.
        size: How many.
        table: What a row adds, int8, (rows, SPAN, filters).
        bias: Of the filters, in steps of the table, int16.
        responses: Room, int16, (size, filters) or longer.
        inner: Of the responses that lie in a block: greatest, then sum, int32, (blocks, 2, filters), filled here.
        across: Of those that lie in this block and the next, same shape.

    Returns:
        How many blocks there are.
    """
    _respond(first, second, size, table, bias, responses)
    blocks = (size + BLOCK - 1) // BLOCK
    for block in range(blocks):
        start = block * BLOCK
        end = min(size, start + BLOCK)
        _pool(responses, start + EDGE, end - EDGE, inner[block])
        _pool(responses, max(start + EDGE, end - EDGE), min(size - EDGE, start + BLOCK + EDGE), across[block])
    return blocks


@kernel
def _log_sum(values: Array, start: int, end: int) -> Word:
    total = values[start]
    for at in range(start + 1, end):
        total = np.logaddexp(total, values[at])
    return total


@kernel
def scores(  # noqa: PLR0913, PLR0917  compiled: arrays are all it can take
    inner: Array,
    across: Array,
    blocks: int,
    size: int,
    scale: Array,
    weight: Array,
    bias: Array,
    last: Array,
    last_bias: Array,
    out: Array,
) -> int:
    """What each window is taken for. Classes are benign, three kinds of attack, harmful.

    Args:
        inner: What `pools` filled in.
        across: See above.
        blocks: What it gave.
        size: Words, the empty ones included.
        scale: What one step of each filter is worth, float32, (filters,).
        weight: Of the hidden layer, float32, (2 * filters, hidden).
        bias: Of the hidden layer for the surface at hand, float32, (hidden,).
        last: Of the last layer, float32, (hidden, 5).
        last_bias: Of the last layer, float32, (5,).
        out: For each window the logit of attack against all else, that of harmful against all else, and the likeliest
            class of attack, float32, (windows, 3).

    Returns:
        How many windows there are.
    """
    filters, hidden, classes = scale.shape[0], bias.shape[0], last_bias.shape[0]
    windows = max(1, blocks - 1)
    here = np.empty(hidden, np.float32)
    logits = np.empty(classes, np.float32)
    for window in range(windows):
        start = window * BLOCK
        end = min(size, start + 2 * BLOCK)
        number = np.float32(max(1, end - start - 2 * EDGE))
        for one in range(hidden):
            here[one] = bias[one]
        for one in range(filters):
            greatest = inner[window, 0, one]
            total = inner[window, 1, one]
            if blocks > 1:
                greatest = max(greatest, across[window, 0, one], inner[window + 1, 0, one])
                total += across[window, 1, one] + inner[window + 1, 1, one]
            high = np.float32(greatest) * scale[one]
            mean = np.float32(total) * scale[one] / number
            for other in range(hidden):
                here[other] += high * weight[one, other] + mean * weight[filters + one, other]
        for one in range(classes):
            logits[one] = last_bias[one]
        for other in range(hidden):
            value = max(here[other], np.float32(0))
            for one in range(classes):
                logits[one] += value * last[other, one]
        attack = _log_sum(logits, 1, 4)
        calm = np.logaddexp(logits[0], logits[4])
        out[window, 0] = attack - calm
        out[window, 1] = logits[4] - np.logaddexp(attack, logits[0])
        out[window, 2] = 1 + np.argmax(logits[1:4])
    return windows
