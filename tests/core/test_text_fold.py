# SPDX-License-Identifier: Apache-2.0
"""The plain spelling: what is dropped, what is mapped, and that no cut changes it."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldwall.core.text import LEET, fold

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("hidden", "plain"),
    [
        ("ig\u200bno\u2060re\ufeff", "ignore"),
        ("ig\u202eno\u2066re\u2069", "ignore"),
        ("ig\u00adnore\ufe0f", "ignore"),
        ("ig\x00no\x08re\x7f", "ignore"),
        ("\U000e0049\U000e0067\U000e006e", "Ign"),
        ("\U000e0001a\U000e007f", "a"),
        ("i\u0301g\u0336n\u20ddore", "ignore"),
        ("\u0456gn\u043er\u0435", "ignore"),
        ("\u03b9gn\u03bfre", "ignore"),
        ("\u13a5gnor\u13ac", "ignore"),
        ("\uff29\uff27nore", "IGnore"),
        ("\U0001d422\U0001d420nore", "ignore"),
        ("\u026a\u0262\u0274\u1d0f\u0280\u1d07", "ignore"),
        ("\U0001f178\U0001f136nore", "iGnore"),
        ("\U0001f1ee\U0001f1ec", "ig"),
        ("a\u00a0b\u2003c\u3000d\u2028e\x0cf", "a b c d e f"),
        ("\u201cx\u201d \u2018y\u2019 \u2014 \u2212", "\"x\" 'y' - -"),
        ("\u0661\u0968\u2462", "123"),
        ("\u00c9\u00e9 E\u0301e\u0301", "Ee Ee"),
        ("\u0397ELP \u0397\u0415L\u03a1", "hELP heLp"),
        ("\ud800", "\ufffd"),
    ],
)
def test_a_hiding_technique_becomes_visible(hidden: str, plain: str) -> None:
    """Invisible, decorated and look-alike characters give the text a reader would see."""
    folded = fold(hidden)

    assert folded == plain


@pytest.mark.parametrize(
    "text",
    [
        "Hello, World!\r\n\t~",
        "\u6f22\u5b57\u3068\u30ab\u30bf",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
    ],
)
def test_ordinary_text_survives(text: str) -> None:
    """ASCII keeps its case; Chinese, Japanese, Arabic and Hindi stay as they are."""
    folded = fold(text)

    assert folded == text


def test_korean_survives_as_its_letters() -> None:
    """Hangul syllables become their letters, the same ones as when they were typed as letters."""
    folded = fold("\uc548\ub155")

    assert unicodedata.normalize("NFC", folded) == "\uc548\ub155"


def test_russian_keeps_words_apart() -> None:
    """Folding look-alikes does not make different Russian words equal, and ignores their case."""
    words = [
        "\u0432\u0437\u043b\u043e\u043c",
        "\u043f\u0440\u0438\u0432\u0435\u0442",
        "\u0437\u0430\u0431\u0443\u0434\u044c",
        "\u0434\u043e\u043c",
        "\u0434\u044b\u043c",
    ]

    assert len({fold(word) for word in words}) == len(words)
    assert [fold(word.upper()) for word in words] == [fold(word) for word in words]


@given(ANY_TEXT, ANY_TEXT)
def test_folding_is_additive(left: str, right: str) -> None:
    """Where a text is cut does not matter."""
    together = fold(left + right)

    assert together == fold(left) + fold(right)


@given(st.text())
def test_texts_equal_under_nfkc_fold_equally(text: str) -> None:
    """Compatibility normalisation does not change the fold, but for the order of marks."""
    normal = fold(unicodedata.normalize("NFKC", text))

    assert Counter(normal) == Counter(fold(text))


@given(ANY_TEXT)
def test_folding_twice_is_folding_once(text: str) -> None:
    """What is folded is plain, and can be written as UTF-8."""
    folded = fold(text)

    assert fold(folded) == folded
    assert folded.encode().decode() == folded


def test_leet_stands_for_letters_only() -> None:
    """The one table of leet spelling maps lower-case letters to other characters."""
    pairs = [(letter, sign) for letter, signs in LEET.items() for sign in signs]

    assert all(letter.isascii() and letter.islower() and not sign.isalpha() for letter, sign in pairs)
    assert ("e", "3") in pairs
