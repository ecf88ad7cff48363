# SPDX-License-Identifier: Apache-2.0
"""Disguises leave no trace in a sketch, keys share nothing, and the fast way gives what the plain one gives."""

import base64
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core import sketch as module
from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.core.fingerprint_file import (
    Canary,
    decode_canaries,
    decode_common,
    encode_canaries,
    encode_common,
)
from shieldwall.core.sketch import (
    KEPT,
    PIECE,
    SHINGLE,
    Key,
    PlainSketcher,
    Sketch,
    containment,
    derive_key,
    fingerprints,
    letters,
    locate,
    permute,
    pieces,
    resemblance,
    shared,
)
from shieldwall.core.sketcher import make_sketcher

KEY = derive_key(bytes(range(32)), 7)
OTHER = derive_key(bytes(range(32)), 8)
TEXT = "Please carry the blue ladder to the Garden, lean it on the old wall and paint the gutter before it rains."
PAGE = " ".join(f"{word} {number * 7919 % 104729}" for number, word in enumerate(TEXT.split() * 40))
texts = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("abc ABC 013!@$ \n\u200b\uff21\u4f60\u597d\u30ab\uac00\u0e01\u0e34\u0430\x00"),
    ),
    max_size=80,
)


def unpermute(value: int, key: Key) -> int:
    """The inverse of the permutation, written from the paper."""
    left, right = value >> 32, value & 0xFFFFFFFF
    for each in reversed(key.rounds):
        right ^= left
        right = (right >> 3 | right << 29) & 0xFFFFFFFF
        left = ((left ^ each) - right) & 0xFFFFFFFF
        left = (left << 8 | left >> 24) & 0xFFFFFFFF
    return left << 32 | right


def test_the_cipher_gives_the_published_vector() -> None:
    """Speck64/128 of the paper's appendix."""
    key = Key(b"", module._schedule([0x03020100, 0x0B0A0908, 0x13121110, 0x1B1A1918]))

    assert permute(0x3B7265747475432D, key) == 0x8C6FA548454E028B


@given(st.integers(0, 2**64 - 1))
def test_the_permutation_can_be_undone(value: int) -> None:
    """It is a bijection: who has the key loses nothing."""
    assert unpermute(permute(value, KEY), KEY) == value


@pytest.mark.parametrize(
    "disguised",
    [
        TEXT.upper(),
        TEXT.replace(" ", ""),
        " ".join(TEXT),
        TEXT.replace(" ", " \n\t "),
        TEXT.replace(",", " -- ").replace(".", "!"),
        TEXT.translate(str.maketrans("aeiost", "431057")),
        TEXT.replace("l", "I").replace("s", "$").replace("a", "@"),
        TEXT.replace("i", "!"),
        "\u200b".join(TEXT),
        "".join(chr(ord(char) + 0xFEE0) if char.isalpha() else char for char in TEXT),
    ],
    ids=["case", "joined", "letters apart", "blanks", "signs", "digits", "look-alikes", "bangs", "hidden", "wide"],
)
def test_a_disguise_leaves_no_trace(disguised: str) -> None:
    """The letters are the same, and so the sketch is."""
    assert letters(disguised) == letters(TEXT)


def test_encoded_text_is_part_of_the_letters() -> None:
    """What base64 hides is compared too, and no shingle joins it with what stands before."""
    encoded = base64.b64encode(TEXT.encode()).decode()

    found = letters(f"see {encoded} there")

    assert found.endswith("\0" + letters(TEXT))
    assert fingerprints(found)[-len(fingerprints(letters(TEXT))) - 1] == 0


def test_scripts_without_spaces_have_enough_shingles() -> None:
    """Ideographs and kana count more than once, so that a sentence of a dozen of them can be known."""
    assert len(letters("你好世界")) == 12
    assert len(letters("カタカナ")) == 8
    assert letters("Привет, мир") == letters("ПРИВЕТ   МИР")


@settings(max_examples=200, deadline=None)
@given(texts)
def test_the_fast_way_gives_what_the_plain_one_gives(text: str) -> None:
    """Bit by bit, whatever the text."""
    assert make_sketcher(KEY).sketch(text) == PlainSketcher(KEY).sketch(text)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, len(letters(TEXT)) - SHINGLE)))
def test_what_is_common_is_subtracted(places: set[int]) -> None:
    """Common shingles are zero, the others stay where they were; both ways agree."""
    found = fingerprints(letters(TEXT))
    common = module._packed(found[place] for place in places)

    sketch = make_sketcher(KEY, common).sketch(TEXT)

    values = module._numbers(sketch.values)
    assert {place for place, value in enumerate(values) if not value} == places
    assert sketch == PlainSketcher(KEY, common).sketch(TEXT)


def test_a_text_without_enough_letters_has_no_values() -> None:
    """Nothing, signs, and one letter too few."""
    assert make_sketcher(KEY).sketch("") == make_sketcher(KEY).sketch("abcdef?") == Sketch(KEY.id)


def test_keys_share_nothing() -> None:
    """The same text under two epochs has no value in common, also when the name of the key is forged."""
    one, two = make_sketcher(KEY).sketch(TEXT), make_sketcher(OTHER).sketch(TEXT)
    forged = Sketch(KEY.id, two.values)

    assert resemblance(one, two) == containment(one, two) == 0
    assert resemblance(one, forged) == containment(one, forged) == 0
    assert not set(module._numbers(one.values)) & set(module._numbers(two.values))


def test_a_key_has_a_name_that_is_not_part_of_it() -> None:
    """Epochs and secrets give other names and other rounds; the same ones the same."""
    again = derive_key(bytes(range(32)), 7)

    assert again == KEY
    assert len({KEY.id, OTHER.id, derive_key(bytes(32), 7).id}) == 3
    assert KEY.rounds[0].to_bytes(4, "little") not in KEY.id


@pytest.mark.parametrize(("secret", "epoch"), [(b"", 0), (bytes(31), 0), (bytes(33), 0), (bytes(32), -1)])
def test_a_wrong_secret_is_refused(secret: bytes, epoch: int) -> None:
    """Before anything is computed with it."""
    with pytest.raises(ConfigError):
        derive_key(secret, epoch)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PAGE.split()), max_size=400).map(" ".join))
def test_pieces_are_what_may_be_shared(text: str) -> None:
    """At most `PIECE` places each, at most `KEPT` values, ascending; sharing keeps them and nothing else."""
    sketch = make_sketcher(KEY).sketch(text)

    found = pieces(sketch)

    assert sum(piece.places for piece in found) == len(sketch.values) // 8
    assert all(piece.places <= PIECE and 0 < len(piece.values) <= 8 * KEPT for piece in found)
    assert all(list(values) == sorted(set(values)) for values in (module._numbers(piece.values) for piece in found))
    assert pieces(shared(sketch)) == found
    assert not shared(sketch).values


def test_resemblance_and_containment_are_estimated_from_what_is_shared() -> None:
    """A text resembles itself and is contained where it stands; another text does and is not."""
    sketcher = make_sketcher(KEY)
    part, whole = sketcher.sketch(PAGE[:3000]), sketcher.sketch(PAGE)
    exact = len(set(fingerprints(letters(PAGE[:3000])))) / len(set(fingerprints(letters(PAGE))))

    assert resemblance(shared(part), shared(sketcher.sketch(PAGE[:3000].upper()))) == 1
    assert containment(shared(part), shared(whole)) > 0.9
    assert abs(resemblance(shared(part), shared(whole)) - exact) < 0.15
    assert resemblance(sketcher.sketch(TEXT), sketcher.sketch("nothing of this kind stands in the other one")) < 0.05
    assert resemblance(Sketch(KEY.id), Sketch(KEY.id)) == containment(Sketch(KEY.id), part) == 0


@given(st.lists(st.sampled_from(["a", "l!", "!", " ", "\u200b", "你", "é", "1", "ß", "-"])).map("".join), st.data())
def test_letters_are_located_in_the_text(text: str, data: st.DataObject) -> None:
    """The range found holds the letters asked for, and begins and ends with one of them."""
    found = letters(text)
    start = data.draw(st.integers(0, len(found)))
    end = data.draw(st.integers(start, len(found)))

    span = locate(text, (start, end))

    if start == end:
        assert span is None
    else:
        assert span is not None
        # What a last `!` is depends on the letter behind it.
        assert found[start:end] in letters(text[span[0] : span[1]] + "a")


def test_what_was_decoded_is_located_nowhere() -> None:
    """A range of letters behind the text itself."""
    encoded = base64.b64encode(TEXT.encode()).decode()

    assert locate(encoded, (len(encoded) + 10, len(encoded) + 50)) is None


def test_importing_the_module_loads_nothing_heavy() -> None:
    """Numpy and numba come with the first sketcher."""
    script = "import sys, shieldwall.core.sketch; print({'numpy', 'numba'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "set()"


def test_without_numba_the_plain_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the extra makes the same sketches, slower."""
    monkeypatch.setitem(sys.modules, "shieldwall.core.sketch_kernels", None)

    assert isinstance(make_sketcher(KEY), PlainSketcher)


@given(st.sets(st.integers(1, 2**64 - 1)), st.integers(0, 2**16))
def test_files_of_fingerprints_read_back(numbers: set[int], cut: int) -> None:
    """What was written is read; a cut file, a flipped bit and the other kind are refused."""
    common = encode_common(sorted(numbers))
    canaries = [Canary(len(numbers) + 5, module._packed(numbers))] * 2 if numbers else []

    assert decode_common(common) == module._packed(sorted(numbers))
    assert decode_canaries(encode_canaries(canaries)) == canaries
    place = cut % len(common)
    flipped = common[:place] + bytes([common[place] ^ 1]) + common[place + 1 :]
    for wrong in (common[:place], flipped, encode_canaries(canaries), b"", common + b"\0"):
        with pytest.raises(InvalidInput):
            decode_common(wrong)
