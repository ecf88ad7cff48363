# SPDX-License-Identifier: Apache-2.0
"""What the fast tier learns from: windows as it will judge them, and the encoder's word on each, in its place."""

from collections import Counter

import numpy as np
import pytest

from shieldwall.core.text import fold
from shieldwall.detect import Encoder, Vocabulary
from shieldwall.lab.distil import Lesson, ask, lessons
from shieldwall.lab.mixture import CLASSES, Sample
from tests.detect.weights import BURNING, PLAYED, TRUSTED, encoder_folder

LONG = 30
"""Samples of many windows."""


def sample(text: str, label: str = "benign", surface: str = "prompt", source: str = "s") -> Sample:
    return Sample(text, label, surface, "en", source, source, 1.0)


def parts() -> list[tuple[float, list[Sample]]]:
    """Long documents in which every word is another one, and short prompts that are one window each."""
    long = [
        sample(" ".join(f"w\u00f6rd{n}x{at}" for at in range(130 + n)), "injection", "document", f"long {n}")
        for n in range(LONG)
    ]
    short = [sample(f"Where is platform {'abcdefghij'[n]}?", source=f"short {n}") for n in range(10)]
    return [(0.5, long), (0.5, [*short, sample("", source="empty")])]


def test_lessons_are_the_windows_of_the_texts() -> None:
    """Each stands in a sample of its surface and label, at a place where the fast tier has a window."""
    words = Vocabulary(np.zeros(0, np.uint32))
    windows = {}
    for _, some in parts():
        for each in some:
            folded = fold(each.text).encode()
            spans = words.windows(folded)
            for place, (start, end) in enumerate(spans):
                windows[folded[start:end].decode()] = each, place == 0, place == len(spans) - 1

    found = lessons(parts(), 200, 1)

    assert len(found) > 100
    for lesson in found:
        each, begins, ends = windows[lesson.text]
        assert lesson == Lesson(lesson.text, each.surface, CLASSES.index(each.label), begins, ends)


def test_no_two_lessons_are_alike() -> None:
    """However often a text is drawn; and where there are no more windows, there are no more lessons."""
    words = Vocabulary(np.zeros(0, np.uint32))
    every = sum(len(words.windows(fold(each.text).encode())) for _, some in parts() for each in some)

    found = lessons(parts(), 5_000, 1)

    assert len(set(found)) == len(found) == every


def test_as_many_come_as_were_asked_for() -> None:
    """And none, if none were."""
    assert len(lessons(parts(), 40, 1)) == 40
    assert lessons(parts(), 0, 1) == []


def test_the_same_seed_gives_the_same_lessons() -> None:
    """Another seed others."""
    assert lessons(parts(), 60, 1) == lessons(parts(), 60, 1)
    assert lessons(parts(), 60, 1) != lessons(parts(), 60, 2)


def test_windows_in_the_middle_are_neither_begin_nor_end() -> None:
    """Of a text of many windows; one of a single window is both."""
    found = lessons(parts(), 5_000, 1)

    long = [(lesson.begins, lesson.ends) for lesson in found if lesson.surface == "document"]
    counted = Counter(long)
    assert counted[True, False] == counted[False, True] == LONG
    assert counted[False, False] > LONG
    assert counted[True, True] == 0
    assert all(lesson.begins and lesson.ends for lesson in found if lesson.surface == "prompt")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Hears a few made-up words and nothing else."""
    return Encoder(encoder_folder(tmp_path_factory.mktemp("encoder")))


def test_each_lesson_gets_the_answer_about_itself(encoder: Encoder) -> None:
    """Texts are asked about in order of their length and answered in theirs, and padding has no say."""
    heard = {"benign": "", "injection": TRUSTED, "jailbreak": PLAYED, "harmful": BURNING}
    names = [list(heard)[number % 4] for number in range(150)]
    asked = [
        Lesson(f"{'a few tall beans ' * (n * 37 % 23)}{heard[name]}", "document", 0, begins=True, ends=True)
        for n, name in enumerate(names)
    ]
    told: list[str] = []

    found = ask(encoder, asked, told.append)

    assert found.shape == (150, len(CLASSES))
    assert found.dtype == np.float32
    assert [CLASSES[row.argmax()] for row in found] == names
    alone = np.concatenate([encoder.raw([each.text], [each.surface]) for each in asked])
    assert np.abs(found - alone).max() < 1e-5
    assert told == ["encoder asked about 0/150 windows"]


def test_nothing_asked_is_nothing_answered(encoder: Encoder) -> None:
    """No row, as many columns as ever."""
    assert ask(encoder, [], lambda _: None).shape == (0, len(CLASSES))
