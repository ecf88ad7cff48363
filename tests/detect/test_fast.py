# SPDX-License-Identifier: Apache-2.0
"""The fast tier: a window says what its words say, a plain second implementation agrees, bad files are named."""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError
from shieldwall.detect import FastHeader, FastTier, FastWeights, Vocabulary, encode_fast, surface_token
from shieldwall.detect.fast_file import decode
from shieldwall.detect.fast_words import BLOCK
from tests.detect.weights import (
    BURNING,
    FILLER,
    HINTED,
    PLAYED,
    SHOUTED,
    hashes,
    random_fast,
    random_tier,
    telling_fast,
    telling_tier,
)

WINDOW = 2 * BLOCK
EDGE = 2
SURFACES = ("prompt", "document", "tool_result", "system", "tool_definition", "response", "telemetry")
WORDS = (*FILLER, "Beans", "FLOWERS", "unheard", "xylem", "1984", "\u5ead", "\U0001f33b", "gr\u00fcn", ",", "\n\n")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def drawn(count: int, seed: int) -> list[str]:
    """So many words at random: lists that hypothesis draws are rarely longer than a window."""
    return [str(word) for word in np.random.default_rng(seed).choice(WORDS, count)]


LONG = st.builds(drawn, st.integers(1, 180), st.integers(0, 1 << 16))


@cache
def tier() -> FastTier:
    return random_tier()


@cache
def teller() -> FastTier:
    return telling_tier()


def written(words: list[str]) -> bytes:
    """One word of the tier for each that is given: a blank between any two."""
    return " ".join(words).encode()


# --- Windows -------------------------------------------------------------------------------------------------------


@QUICK
@given(LONG, st.integers(0, 100), LONG)
def test_a_window_does_not_depend_on_its_neighbours(words: list[str], number: int, others: list[str]) -> None:
    """All words outside a window are replaced by others: it says the same, to the last bit."""
    words = [word for word in words if word != "\n\n"] or ["a"]
    others = [word for word in others if word != "\n\n"] or ["a"]
    before = tier().windows(written(words), "prompt")
    number %= len(before.attacks)
    start, end = max(0, number * BLOCK - EDGE), number * BLOCK - EDGE + WINDOW
    changed = [word if start <= at < end else others[at % len(others)] for at, word in enumerate(words)]

    after = tier().windows(written(changed), "prompt")

    assert (after.attacks[number], after.harms[number], after.kinds[number]) == (
        before.attacks[number],
        before.harms[number],
        before.kinds[number],
    )


@pytest.mark.parametrize("count", [0, 1, 20, 21, 44, 45, 46, 68, 69, 70, 71, 92, 93, 500])
def test_windows_lie_at_fixed_places(count: int) -> None:
    """Of 48 words, half of each in the next; two empty words stand before and after the text."""
    text = b"bean " * count
    batch = tier().windows(text, "prompt")

    assert len(batch.attacks) == max(1, math.ceil((count + 2 * EDGE) / BLOCK) - 1)
    spans = [batch.spans[number] for number in range(len(batch.attacks))]
    if count:
        assert spans == [
            (5 * max(0, number * BLOCK - EDGE), 5 * min(count, number * BLOCK - EDGE + WINDOW) - 1)
            for number in range(len(spans))
        ]
    assert tier().vocabulary.windows(text) == spans


@QUICK
@given(st.integers(0, 1_200), st.integers(0, 10_000))
def test_a_needle_in_a_long_page_scores_as_in_its_window_alone(place: int, seed: int) -> None:
    """Twenty words anywhere among 1,220 are whole in some window; the page says what the loudest window says alone."""
    chance = np.random.default_rng(seed)
    needle = [str(word) for word in chance.choice(["xylem", "FLOWERS", "unheard", "gr\u00fcn"], 20)]
    words = ["bean"] * place + needle + ["bean"] * (1_200 - place)
    text = written(words)
    page = tier().windows(text, "document")
    spans = [page.spans[number] for number in range(len(page.attacks))]
    start = len(written(["bean"] * place))
    end = start + 1 + len(written(needle))

    holders = [number for number, (low, high) in enumerate(spans) if low <= start + 1 and end - 1 <= high]
    alone = {number: _alone(text, number, len(spans)) for number in {0, len(spans) - 1, *holders}}

    assert holders
    assert alone == {number: page.attacks[number] for number in alone}
    assert tier().judge(text, "document").score == tier().attack(max(page.attacks))


def _alone(text: bytes, number: int, windows: int) -> float:
    """Logit of one window, shown to the tier as a text that goes on before and behind it."""
    starts, ends = (places.copy() for places in tier().vocabulary.read(text)[2:4])
    begin = number * BLOCK - EDGE
    first, last = max(0, begin), min(len(starts), begin + WINDOW)
    is_last = number == windows - 1
    data = text[starts[first] : ends[last - 1]] + (b"" if is_last else b" more")
    (attack,) = tier().windows(data, "document", first=number == 0, last=is_last).attacks
    return attack


def test_the_worst_window_decides() -> None:
    """One word among thousands is found, with the window around it as the span and its class as the category."""
    before, after = b"bean " * 3_000, b" bean" * 3_000
    for word, category in ((SHOUTED, "injection"), (PLAYED, "jailbreak")):
        judged = teller().judge(before + word.encode() + after)

        start, end = judged.span
        assert judged.score > 0.98
        assert judged.category == category
        assert start <= len(before) < len(before) + len(word) <= end
        assert end - start < 6 * WINDOW
    assert teller().judge(before + after).score < 0.05
    assert teller().judge(before + BURNING.encode()).harm > 0.98 > 0.05 > teller().judge(before + SHOUTED.encode()).harm


def test_surfaces_have_opinions_of_their_own() -> None:
    """The same words on another surface get another score; surfaces that are not known are one."""
    scores = {surface: tier().judge(b"the garden behind our house", surface).score for surface in SURFACES}

    assert len(set(scores.values())) == len({surface_token(surface) for surface in SURFACES}) == len(SURFACES)
    assert tier().judge(b"the garden", "telemetry") == tier().judge(b"the garden", "whatever")


# --- A second implementation ---------------------------------------------------------------------------------------


def naive(weights: FastWeights, scale: np.ndarray, first: np.ndarray, second: np.ndarray, surface: str) -> np.ndarray:
    """All windows in plain numpy and double precision: attack, harm and class of attack, float64 (windows, 3)."""
    vectors = weights.rows.astype(float) * weights.steps[:, None].astype(float)
    span = len(weights.filters)
    size = len(first)

    def steps(row: int, place: int) -> np.ndarray:
        return np.rint((vectors[row].astype(np.float32) @ (weights.filters[place] / scale)).astype(float))

    bias = np.rint(weights.filter_bias / scale)
    responses = {
        middle: sum(
            (
                steps(row, place)
                for place in range(span)
                for row in (first[middle + place - EDGE], second[middle + place - EDGE])
                if row
            ),
            start=bias,
        )
        + sum(
            (steps(0, place) for place in range(span) if first[middle + place - EDGE] == 0),
            start=np.zeros_like(bias),
        )
        for middle in range(EDGE, size - EDGE)
    }
    out = []
    for start in range(0, max(1, BLOCK * (math.ceil(size / BLOCK) - 1)), BLOCK):
        end = min(size, start + WINDOW)
        inside = [np.maximum(responses[middle], 0) for middle in range(start + EDGE, end - EDGE)]
        inside = inside or [np.zeros_like(bias)]
        pooled = np.concatenate([np.max(inside, axis=0) * scale, np.sum(inside, axis=0) * scale / len(inside)])
        hidden = np.maximum(pooled @ weights.hidden + weights.surfaces[surface_token(surface)], 0)
        logits = np.exp(hidden @ weights.last + weights.last_bias)
        attack = logits[1:4].sum()
        out.append(
            (
                np.log(attack / (logits[0] + logits[4])),
                np.log(logits[4] / (logits[0] + attack)),
                1 + np.argmax(logits[1:4]),
            )
        )
    return np.array(out)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LONG, st.sampled_from(SURFACES), st.integers(1, 4))
def test_a_plain_second_implementation_agrees(words: list[str], surface: str, seed: int) -> None:
    """Convolution, pools and logits, written once more in numpy, give the same logits and classes."""
    weights = random_fast(seed)
    here = _made(seed)
    text = written(words)
    first, second = (rows.copy() for rows in here.vocabulary.read(text)[:2])

    batch = here.windows(text, surface)
    expected = naive(weights, here._scale, first, second, surface)

    assert np.allclose(batch.attacks, expected[:, 0], atol=2e-3)
    assert np.allclose(batch.harms, expected[:, 1], atol=2e-3)
    assert batch.kinds == expected[:, 2].astype(int).tolist()


@cache
def _made(seed: int) -> FastTier:
    return random_tier(seed)


def test_the_table_is_the_products_in_whole_steps() -> None:
    """A row times a filter, at each place, to half a step; the largest of each filter has nearly all the steps."""
    weights = random_fast()
    products = np.einsum("rw,swf->rsf", weights.rows * weights.steps[:, None], weights.filters)

    assert np.abs(tier()._table * tier()._scale - products).max(axis=(0, 1)) == pytest.approx(
        0.5 * tier()._scale, rel=0.02
    )
    assert (np.abs(tier()._table).max(axis=(0, 1)) == 120).all()


def test_a_great_bias_does_not_turn_over() -> None:
    """Responses are 16 bits: a bias near the bound and ten words that add to it stay on their side of zero."""
    weights = random_fast()
    count = len(weights.rows)
    great = weights._replace(
        rows=np.full((count, 1), 127, np.int8),
        steps=np.full(count, 0.01, np.float32),
        filters=np.ones((5, 1, weights.filters.shape[2]), np.float32),
        filter_bias=np.full(weights.filters.shape[2], 1e6, np.float32),
        hidden=np.ones_like(weights.hidden),
        surfaces=np.zeros_like(weights.surfaces),
        last=np.tile(np.array([0, 1, 0, 0, 0], np.float32), (weights.hidden.shape[1], 1)),
    )
    shouting = b"UNHEARD WORDS IN CAPITALS ONLY " * 12

    attacks = FastTier(great).windows(shouting, "prompt").attacks

    assert min(attacks) > 1_000


# --- Words ---------------------------------------------------------------------------------------------------------

SECOND_READER = re.compile(
    rb"\xe0[\xb8-\xff].?|[\xf0-\xff].{0,3}|[\xe3-\xef].{0,2}|[0-9A-Za-z\x80-\xe2]{1,64}|\n[\x00-\x20\x7f]*|[!-~]",
    re.DOTALL,
)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
        st.binary(max_size=200),
        LONG.map(written),
    )
)
def test_a_second_reader_finds_the_same_words(data: bytes) -> None:
    """One regular expression says what a word is; the compiled reader cuts any bytes in the same places."""
    found = [match.span() for match in SECOND_READER.finditer(data)]

    _, _, starts, ends, _ = tier().vocabulary.read(data)

    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The garden, behind 42 houses!", ["The", "garden", ",", "behind", "42", "houses", "!"]),
        ("snake_case don't", ["snake", "_", "case", "don", "'", "t"]),
        ("gr\u00fcne \u0431\u043e\u0431\u044b", ["gr\u00fcne", "\u0431\u043e\u0431\u044b"]),
        ("\u5ead\u306e\u8c46 \ucf69", ["\u5ead", "\u306e", "\u8c46", "\ucf69"]),
        ("\u0e16\u0e31\u0e48\u0e27", ["\u0e16", "\u0e31", "\u0e48", "\u0e27"]),
        ("a \U0001f33b\U0001f33b b", ["a", "\U0001f33b", "\U0001f33b", "b"]),
        ("one\n\n  \n two\tthree", ["one", "\n\n  \n ", "two", "three"]),
        ("", []),
        (" \t \r", []),
    ],
)
def test_what_counts_as_a_word(text: str, words: list[str]) -> None:
    """Runs of letters and digits, single signs, single characters of scripts without spaces, runs of line breaks."""
    data = text.encode()
    _, _, starts, ends, _ = tier().vocabulary.read(data)

    assert [data[start:end].decode() for start, end in zip(starts, ends, strict=True)] == words


def test_words_have_rows() -> None:
    """Known words have one of their own, in capitals a second; unknown ones have one for each of their ends."""
    reader = Vocabulary(hashes(FILLER))
    base = reader.first_row

    def rows(text: str) -> list[tuple[int, int]]:
        first, second = reader.read(text.encode())[:2]
        assert [*first[:EDGE], *first[-EDGE:], *second[:EDGE], *second[-EDGE:]] == [0] * 8
        return list(zip(first[EDGE:-EDGE].tolist(), second[EDGE:-EDGE].tolist(), strict=True))

    assert rows(" ".join(FILLER)) == [(base + number, 0) for number in range(len(FILLER))]
    assert rows("Garden GARDEN gArDeN A") == [(base + 1, 0), (base + 1, 1), (base + 1, 0), (base + 8, 0)]
    one, same_head, same_tail, other = rows("unheard unhealed overheard xylem")
    assert one[0] == same_head[0] != same_tail[0]
    assert one[1] == same_tail[1] != same_head[1]
    assert not {*one} & {*other}
    assert all(2 <= head < 4_098 <= tail < base for head, tail in (one, same_head, same_tail, other))
    assert rows("UNHEARD 1984 room1") == rows("unheard 7777 ROOM9")


def test_capitals_count_only_where_a_whole_word_is_in_them() -> None:
    """GARDEN is not garden; Garden is."""
    plain, title, shouted = (tier().judge(text).score for text in (b"our garden", b"our Garden", b"our GARDEN"))

    assert plain == title != shouted


@pytest.mark.parametrize("text", [b"", b" ", b"\t" * 5_000])
def test_a_text_without_words_is_one_window(text: bytes) -> None:
    """It is judged as what is empty, and its span is all of it."""
    judged = tier().judge(text)

    assert judged.span == (0, len(text))
    assert judged.score == tier().judge(b"").score


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"bean " * 200_000, 200_000),
        (b"x" * 1_000_000, 15_625),
        (b" " * 999_999 + b"x", 1),
        ("\u5ead".encode() * 333_334, 333_334),
        (b"!\n" * 500_000, 1_000_000),
        (b"\xff" * 1_000_000, 250_000),
    ],
)
def test_a_megabyte_is_read_to_its_end(text: bytes, words: int) -> None:
    """All of its windows are judged, and what stands at the very end counts."""
    batch = teller().windows(text, "prompt")

    assert len(batch.attacks) == max(1, math.ceil((words + 2 * EDGE) / BLOCK) - 1)
    assert max(batch.attacks) < 0
    assert teller().judge(text + b" " + SHOUTED.encode()).score > 0.98


@QUICK
@given(LONG, st.lists(st.integers(0, 2_000), max_size=6))
def test_a_text_in_parts_has_the_same_windows(words: list[str], places: list[int]) -> None:
    """Whoever keeps what `used` says and goes on from there gets the windows of the whole, none twice, none missing."""
    text = written(words)
    whole = tier().windows(text, "prompt")
    marks = sorted({place % (len(text) + 1) for place in places})

    attacks: list[float] = []
    kept, first = b"", True
    for start, end in zip([0, *marks], [*marks, len(text)], strict=True):
        kept += text[start:end]
        batch = tier().windows(kept, "prompt", first=first, last=False)
        attacks += batch.attacks
        if batch.attacks:
            kept, first = kept[batch.used :], False
    attacks += tier().windows(kept, "prompt", first=first).attacks

    assert attacks == whole.attacks


# --- Calibration ---------------------------------------------------------------------------------------------------


def test_calibration_is_applied() -> None:
    """What a window says is moved by slope and offset; `harm_logit` is the way back."""
    header = FastHeader(slope=2.0, offset=1.0, harm_slope=0.5, harm_offset=-1.0)
    here = FastTier(random_fast(header=header))

    assert here.attack(0.25) == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert here.harm(3.0) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert here.harm(here.harm_logit(0.9)) == pytest.approx(0.9)
    assert here.attack(-math.inf) < 1e-9 < 1 - 1e-9 < here.attack(math.inf)


# --- The file ------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_its_weights(tmp_path: Path) -> None:
    """Bit by bit, the same bytes each time; the version follows the bytes."""
    weights = random_fast()
    data = encode_fast(weights)
    read = decode(data, "own.npz")
    (tmp_path / "own.npz").write_bytes(data)
    one = FastTier(tmp_path / "own.npz")

    assert read.header == weights.header
    assert all(np.array_equal(one, other) for one, other in zip(read[1:], weights[1:], strict=True))
    assert encode_fast(read) == data
    assert one.version != FastTier(weights).version == "random"
    assert re.fullmatch("[0-9a-f]{12}", one.version)
    assert one.judge(b"the garden") == tier().judge(b"the garden")


def arrays(**changes: np.ndarray | bytes) -> bytes:
    """A weight file in which members are replaced, as raw bytes or as arrays."""
    whole = zipfile.ZipFile(io.BytesIO(encode_fast(random_fast())))
    members = {name: whole.read(name) for name in whole.namelist()}
    for field, value in changes.items():
        made = io.BytesIO()
        if isinstance(value, bytes):
            made.write(value)
        else:
            np.lib.format.write_array(made, value, allow_pickle=True)
        members[f"{field}.npy"] = made.getvalue()
    return archive(members)


def archive(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return out.getvalue()


def header(**fields: object) -> np.ndarray:
    return np.frombuffer(msgspec.json.encode(fields), np.uint8)


class Bomb:
    """What a pickle would run when somebody opens it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


def claims(shape: str, kind: str = "<f4") -> bytes:
    """An array file whose header promises more than stands behind it."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def lied(size: int) -> bytes:
    """A good file whose directory says of each member that it unpacks to so many bytes."""
    data = bytearray(encode_fast(random_fast()))
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 24 : at + 28] = size.to_bytes(4, "little")
        at += 4
    return bytes(data)


def damaged(offset: int) -> bytes:
    """A good file with some bytes turned over inside the compressed numbers."""
    data = bytearray(encode_fast(random_fast()))
    for at in range(offset, offset + 64):
        data[at] ^= 0xFF
    return bytes(data)


def encrypted() -> bytes:
    """A good file that says its members are under a password."""
    data = bytearray(encode_fast(random_fast()))
    for mark, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = 0
        while (at := data.find(mark, at)) >= 0:
            data[at + flag] |= 1
            at += 4
    return bytes(data)


W = random_fast()
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"these are no weights",
    "cut in half": lambda: encode_fast(W)[: len(encode_fast(W)) // 2],
    "cut at the end": lambda: encode_fast(W)[:-1],
    "an archive of other things": lambda: archive({"readme.txt": b"hello"}),
    "one array missing": lambda: archive({"header.npy": b""}),
    "an empty array": lambda: arrays(last=b""),
    "a member of text": lambda: arrays(last=b"1.0 2.0"),
    "a header that is a list": lambda: arrays(header=np.frombuffer(b"[1]", np.uint8)),
    "a header that is no JSON": lambda: arrays(header=np.frombuffer(b"\xff{", np.uint8)),
    "a header of words": lambda: arrays(header=header(slope="steep")),
    "a header without end": lambda: arrays(header=np.frombuffer(b'{"x":' + b"[" * 100_000, np.uint8)),
    "a slope beyond numbers": lambda: arrays(header=np.frombuffer(b'{"slope": 1e999}', np.uint8)),
    "a slope of none": lambda: arrays(header=header(harm_slope=0.0)),
    "not a number": lambda: arrays(last=np.full_like(W.last, np.nan)),
    "without end": lambda: arrays(steps=np.full_like(W.steps, np.inf)),
    "beyond all that is learnt": lambda: arrays(filters=W.filters * np.float32(1e30)),
    "another dtype of rows": lambda: arrays(rows=W.rows.astype(np.int16)),
    "another dtype of words": lambda: arrays(words=W.words.astype(np.int64)),
    "another byte order": lambda: arrays(words=W.words.astype(">u4")),
    "double precision": lambda: arrays(hidden=W.hidden.astype(np.float64)),
    "complex": lambda: arrays(hidden=W.hidden.astype(np.complex64)),
    "texts": lambda: arrays(last_bias=np.array(["a"] * 5)),
    "a row too few": lambda: arrays(rows=W.rows[1:]),
    "a word too many": lambda: arrays(words=np.append(W.words, np.uint32(7))),
    "a step too few": lambda: arrays(steps=W.steps[1:]),
    "words in a table": lambda: arrays(words=W.words[:, None]),
    "rows in a line": lambda: arrays(rows=W.rows.ravel()),
    "another width": lambda: arrays(rows=W.rows[:, 1:]),
    "filters of four words": lambda: arrays(filters=W.filters[1:]),
    "filters in a table": lambda: arrays(filters=W.filters[0]),
    "no filters": lambda: arrays(
        filters=W.filters[:, :, :0], filter_bias=W.filter_bias[:0], hidden=W.hidden[:0], rows=W.rows
    ),
    "a bias too few": lambda: arrays(filter_bias=W.filter_bias[1:]),
    "a hidden row too few": lambda: arrays(hidden=W.hidden[1:]),
    "hidden in a line": lambda: arrays(hidden=W.hidden.ravel()),
    "a surface too few": lambda: arrays(surfaces=W.surfaces[1:]),
    "a class too few": lambda: arrays(last=W.last[:, 1:]),
    "no last bias": lambda: arrays(last_bias=np.float32(1.0)),
    "a pickle": lambda: arrays(last=np.array([Bomb()], object)),
    "a pickle as header": lambda: arrays(header=pickle.dumps(Bomb())),
    "a pickle and nothing else": lambda: pickle.dumps(Bomb()),
    "a shape beyond memory": lambda: arrays(steps=claims(f"({1 << 60},)")),
    "a shape beyond counting": lambda: arrays(steps=claims(f"({1 << 70},)")),
    "a shape below zero": lambda: arrays(steps=claims("(-8,)")),
    "a shape that is code": lambda: arrays(steps=claims("__import__('os')")),
    "a header that does not close": lambda: arrays(steps=claims("((((1,")),
    "a header of the wrong kind": lambda: arrays(steps=claims("(1,)", kind="zz")),
    "a bomb that says so": lambda: lied(1 << 31),
    "a bomb that does not say so": lambda: lied(16),
    "bytes turned over": lambda: damaged(len(encode_fast(W)) // 2),
    "bytes turned over at the start": lambda: damaged(0),
    "a password": encrypted,
    "another compression": lambda: arrays().replace(b"\x08\x00", b"\x63\x00"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_a_clear_error(case: str, tmp_path: Path) -> None:
    """It says which file, what is wrong, and what to do; nothing else is raised, and nothing in it is run."""
    path = tmp_path / "mine.npz"
    path.write_bytes(BAD[case]())

    with pytest.raises(ConfigError) as error:
        FastTier(path)

    assert "fast tier" in str(error.value) or "mine.npz" in str(error.value)
    if "vocabulary" not in str(error.value):
        assert "mine.npz" in str(error.value)
        assert "lab train" in error.value.hint


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound stands before anything is unpacked."""
    monkeypatch.setattr("shieldwall.detect.fast_file._MAX_BYTES", 1_000)

    with pytest.raises(ConfigError, match=r"own\.npz is larger"):
        decode(encode_fast(random_fast()), "own.npz")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that would become a large one is refused by what its directory says."""
    monkeypatch.setattr("shieldwall.detect.fast_file._MAX_BYTES", 100_000)
    bomb = archive({f"{field}.npy": bytes(1 << 20) for field in FastWeights._fields})

    with pytest.raises(ConfigError, match=r"own\.npz unpacks to more"):
        decode(bomb, "own.npz")


def test_every_cut_of_a_file_is_a_clear_error() -> None:
    """Wherever a copy stopped."""
    data = encode_fast(telling_fast())
    for size in range(0, len(data), 7):
        with pytest.raises(ConfigError):
            decode(data[:size], "cut.npz")


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    """No stray OSError; a folder is no file either."""
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            FastTier(path)


def test_a_hint_is_a_doubt() -> None:
    """The made-up words that other tests stand on: a shout is an attack, a hint is between."""
    scores = [teller().judge(text.encode()).score for text in ("the garden", f"the {HINTED}", f"the {SHOUTED}")]

    assert scores[0] < 0.05 < scores[1] < 0.5 < 0.95 < scores[2]
