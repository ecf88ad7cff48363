# SPDX-License-Identifier: Apache-2.0
"""The fast tier over a field that arrives: any cut gives the same windows, spans lead back, and work is bounded."""

import base64
import random
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.text import fold
from shieldwall.detect import FastTier
from shieldwall.detect.learned import LearnedField, Window
from tests.detect.corpus import ZERO_WIDTH, cut
from tests.detect.weights import BURNING, FILLER, HINTED, PLAYED, SHOUTED, random_fast, random_tier, telling_tier

EVERY = {"attack": -1e9, "harm": -1e9}
"""Floors that every window is above."""
SENTENCE = "the garden behind our house grows beans and a few tall flowers "
PLACES = st.lists(st.integers(0, 1 << 16), max_size=30)


@cache
def tier() -> FastTier:
    return random_tier()


@cache
def teller() -> FastTier:
    return telling_tier()


def look(pieces: Iterable[bytes], using: FastTier | None = None, **floors: float) -> tuple[list[Window], float]:
    """All windows of a field, in an order that no cut can change, and the worst logit."""
    field = LearnedField(using or tier(), "response", **(floors or EVERY))
    windows = [window for piece in pieces for window in field.feed(piece)]
    return sorted([*windows, *field.end()], key=lambda window: (window.span, window)), field.worst


def coded(text: str) -> list[str]:
    """The text as base64, in escapes, in spaced hex."""
    data = text.encode()
    return [
        f" {base64.b64encode(data).decode()} ",
        "".join(f"%{byte:02x}" for byte in data),
        "".join(f"\\u{ord(char):04x}" for char in text if ord(char) < 0x10000),
        f" {data.hex(' ')} ",
    ]


def drawn(count: int, seed: int) -> str:
    """So many words at random: lists that hypothesis draws are rarely longer than a window."""
    chance = random.Random(seed)
    return " ".join(chance.choices((*FILLER, HINTED, SHOUTED, BURNING), k=count))


def texts() -> st.SearchStrategy[str]:
    """Filling words, encoded text, accents in two ways, scripts without spaces, blanks and words without end."""
    words = st.builds(drawn, st.integers(0, 120), st.integers(0, 1 << 16))
    part = st.one_of(
        words,
        words.flatmap(lambda text: st.sampled_from(coded(text))),
        st.sampled_from(["gru\u0308n cafe\u0301 ", "gr\u00fcn ", "\u5ead\u306e\u8c46" * 30, "\U0001f33b ", ZERO_WIDTH]),
        st.sampled_from(
            [" ", "\n", "\n\n \n", "\t" * 300, "x" * 200, "\uff47\uff41\uff52\uff44\uff45\uff4e ", "\ud800"]
        ),
        st.integers(0, 5_000).map(lambda size: " " * size),
        st.tuples(words, st.integers(2, 300)).map(lambda pair: pair[0].replace(" ", " " * pair[1])),
        st.sampled_from(["\ufdfa" * 400, "\u0301" * 900]),
        st.text(max_size=20),
    )
    return st.lists(part, max_size=8).map("".join)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts(), PLACES)
def test_windows_are_a_function_of_the_bytes(text: str, places: list[int]) -> None:
    """Any cutting, also inside a character, gives the same windows: opinion, words to show, and span."""
    data = text.encode(errors="surrogatepass")

    assert look(cut(data, places)) == look([data])


STRETCHED = [
    SENTENCE * 3 + " " * 3_000 + SENTENCE * 3,
    (SENTENCE * 3).replace(" ", " " * 100) * 3,
    (SENTENCE * 3).replace(" ", " " * 250) * 3,
    (SENTENCE * 3).replace(" ", "\u00e9" + " " * 250) * 3,
    (SENTENCE * 3).replace(" ", "%20" * 100) * 3,
    "\u0301" * 3_000 + SENTENCE * 6,
    "\ufdfa" * 3_000,
    base64.b64encode(((SENTENCE * 3).replace(" ", " " * 150)).encode()).decode(),
]


@pytest.mark.parametrize("text", STRETCHED, ids=range(len(STRETCHED)))
@pytest.mark.parametrize("step", [7, 1_000, 2_047, 4_096, 100_000])
def test_windows_stretched_by_blanks_do_not_depend_on_the_cut(text: str, step: int) -> None:
    """A window of 48 words may be of any length; where it is said to lie does not depend on what had arrived."""
    data = text.encode()

    assert look(data[start : start + step] for start in range(0, len(data), step)) == look([data])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts(), PLACES)
def test_the_worst_of_all_windows_is_known(text: str, places: list[int]) -> None:
    """Whatever the floors are; and of a text without any word to judge there is nothing to say but that."""
    data = text.encode(errors="surrogatepass")
    windows, worst = look([data])
    few, same = look(cut(data, places), attack=0.5, harm=0.5)

    assert same == worst
    assert worst == max((window.attack for window in windows), default=-float("inf"))
    assert few == [window for window in windows if window.attack >= 0.5 or window.harm >= 0.5]


def test_an_empty_field_has_no_windows() -> None:
    """Nothing arrived, nothing is said; nor of a field of characters that the fold drops."""
    assert look([])[0] == look([b""])[0] == look([ZERO_WIDTH.encode()])[0] == []
    assert len(look([b" "])[0]) == 1


# --- Spans ---------------------------------------------------------------------------------------------------------


def loud(text: str, pieces: int = 7) -> list[Window]:
    """Windows in which the shout is heard; the text comes in small pieces."""
    data = text.encode(errors="surrogatepass")
    return look([data[at : at + pieces] for at in range(0, len(data), pieces)], teller(), attack=2.0, harm=1e9)[0]


BEFORE = (
    "",
    SENTENCE * 40,
    "gru\u0308n caf\u00e9 \U0001f33b " * 40,
    "\u5ead\u306e\u8c46" * 200,
    " " * 9_000,
    (SENTENCE * 20).replace(" ", " " * 90),
    f"{ZERO_WIDTH}t{ZERO_WIDTH}h{ZERO_WIDTH}e " * 300,
    "\ud800 " * 300,
    (SENTENCE * 20).replace(" ", "\u00e9" + " " * 300),
)


@pytest.mark.parametrize("before", BEFORE, ids=range(len(BEFORE)))
@pytest.mark.parametrize("after", ["", SENTENCE * 20, "\u5ead" * 300])
def test_a_span_leads_back_to_the_original(before: str, after: str) -> None:
    """Code points of the text as it was written: the loud word lies inside, and the window has its 48 words at most."""
    text = f"{before}{SHOUTED}{' ' if after else ''}{after}"
    found = loud(text)

    assert found
    for window in found:
        start, end = window.span
        assert start <= len(before) < len(before) + len(SHOUTED) <= end <= len(text)
        held = fold(text[start:end].replace("\ud800", "\ufffd"))
        assert SHOUTED in held
        assert " ".join(window.text.split()).endswith(" ".join(held.split()))
        assert len(teller().vocabulary.read(held.encode())[2]) <= 48


@pytest.mark.parametrize("number", range(4))
def test_the_span_of_an_encoded_word_is_the_code(number: int) -> None:
    """A window of decoded text is led back to the characters it was decoded from."""
    hidden = f"{SENTENCE}{SHOUTED} {SENTENCE}"
    code = coded(hidden)[number].strip()
    before = SENTENCE * 30
    found = loud(f"{before}{code} {SENTENCE * 30}")

    assert found
    for window in found:
        assert max(window.span[0], len(before)) < min(window.span[1], len(before) + len(code))
        assert SHOUTED in window.text


def test_decoded_text_is_a_view_of_its_own() -> None:
    """What stands around the code does not dilute what is in it: its windows hold nothing else."""
    code = base64.b64encode(f"the garden {SHOUTED} the garden".encode()).decode()
    (window,) = loud(f"{SENTENCE * 9}{code}{' ' + SENTENCE * 9}")

    assert window.text.endswith(f"the garden {SHOUTED} the garden")
    assert window.text.count("garden") == 2


def test_the_encoder_is_shown_a_little_of_what_stood_before() -> None:
    """A window with at most 240 bytes before it, which begin with a whole word; the span is that of the window."""
    text = SENTENCE * 40 + SHOUTED + " " + SENTENCE * 40
    for window in loud(text):
        start, end = window.span
        shown = window.text.removesuffix(text[start:end])

        assert 200 < len(shown) <= 240
        assert text[:start].endswith(" " + shown)


def test_blanks_without_end_are_not_shown_to_the_encoder() -> None:
    """A window that is stretched by them is shown with one between any two words; its span is as long as it is."""
    blanks = " " * 20_000
    (window,) = loud(f"the garden{blanks}behind our{blanks}house {SHOUTED}", 999)

    assert window.text == f"the garden behind our house {SHOUTED}"
    assert window.span == (0, 40_000 + len(window.text) - 2)


def test_kinds_are_told_apart() -> None:
    """A window says which attack it is taken for, and how harmful it is."""
    for word, category, harm in ((SHOUTED, "injection", False), (PLAYED, "jailbreak", False), (BURNING, "", True)):
        (window,) = look([f"the {word} beans".encode()], teller(), **EVERY)[0]

        assert not category or (window.category, window.attack > 2) == (category, True)
        assert (window.harm > 2) == harm


# --- Work ----------------------------------------------------------------------------------------------------------


class Counting(FastTier):
    """A fast tier that counts what it is asked."""

    calls = 0
    read = 0

    def windows(self, folded: bytes, surface: str, **more: Any) -> Any:
        self.calls += 1
        self.read += len(folded)
        return super().windows(folded, surface, **more)


def pieces_of(text: bytes, step: int) -> Iterator[bytes]:
    return (text[at : at + step] for at in range(0, len(text), step))


FLOODS = [
    b" " * (1 << 20),
    b"the garden " + b"\t" * (1 << 20) + b"behind our house",
    b"\n" * (1 << 20),
    (SENTENCE.encode() * 2 + b" " * 30_000) * 32,
    b"x" * (1 << 18),
    SENTENCE.encode() * 4_000,
    "\u5ead".encode() * 80_000,
    b"%20" * 80_000,
    base64.b64encode(b" " * 300_000),
]


@pytest.mark.parametrize("flood", FLOODS, ids=range(len(FLOODS)))
@pytest.mark.parametrize("step", [16, 65_536])
def test_work_is_in_proportion_to_the_text(flood: bytes, step: int) -> None:
    """However it is cut, all the tier reads is a small multiple of what arrived, and calls are few per kilobyte."""
    counting = Counting(random_fast())
    field = LearnedField(counting, "response", attack=1e9, harm=1e9)
    for piece in pieces_of(flood, step):
        field.feed(piece)
    field.end()

    assert counting.read <= 16 * len(flood) + 10_000
    assert counting.calls <= len(flood) // 32 + 100


def test_a_megabyte_of_blanks_is_hardly_looked_at() -> None:
    """Looks become rarer as what is kept grows: about a hundred for a megabyte in pieces of four bytes."""
    counting = Counting(random_fast())
    field = LearnedField(counting, "response", attack=1e9, harm=1e9)
    for piece in pieces_of(b" " * (1 << 20), 4):
        field.feed(piece)
    field.end()

    assert counting.calls <= 120
    assert counting.read <= 12 << 20


def test_the_way_back_is_forgotten_behind_the_windows() -> None:
    """Of a megabyte that is not ASCII the reader remembers what open windows need, and no more."""
    field = LearnedField(tier(), "response", attack=1e9, harm=1e9)
    for piece in pieces_of("gr\u00fcne Bohnen. ".encode() * 60_000, 4_096):
        field.feed(piece)

    assert len(field._reader._origins._blocks) < 20
    assert sum(len(view.kept) + view.fresh_size for view in field._views.values()) < 10_000
