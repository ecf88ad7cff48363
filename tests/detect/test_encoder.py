# SPDX-License-Identifier: Apache-2.0
"""The encoder reads all of a text, says nothing where it does not know the words, and names what is broken."""

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError
from shieldwall.detect import CLS, HIDDEN_SURFACE, SEP, WINDOW, Encoder, EncoderHeader, surface_token
from shieldwall.detect.encoder import CLASSES
from shieldwall.detect.encoder_tokens import window_starts
from tests.detect.weights import (
    BURNING,
    FILLER,
    PLAYED,
    SHOUTED,
    TRUSTED,
    check_model,
    classifier,
    encoder_folder,
    foreign_folder,
    tokenizer,
)

SENTENCE = " ".join(FILLER)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Our layout: the marks of BERT and of the surface around windows of 128 pieces."""
    return Encoder(encoder_folder(tmp_path_factory.mktemp("own")))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The layout of Hugging Face: two labels, windows of 64 pieces."""
    return Encoder(foreign_folder(tmp_path_factory.mktemp("foreign")))


# --- Windows -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5_000), st.integers(2, 510))
def test_windows_cover_every_piece(pieces: int, room: int) -> None:
    """Half of each is in the next, the last is full, and none begins where another does."""
    starts = list(window_starts(pieces, room))

    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert {at for start in starts for at in range(start, min(pieces, start + room))} == set(range(pieces))
    steps = [other - start for start, other in pairwise(starts)]
    assert all(step == room // 2 for step in steps[:-1])
    assert all(0 < step <= room // 2 for step in steps[-1:])
    assert starts[-1] == max(0, pieces - room)


@pytest.mark.parametrize("words", [0, 1, 124, 125, 126, 187, 188, 250, 1_000])
def test_the_model_is_shown_the_windows(own: Encoder, words: int) -> None:
    """Each begins with the mark of BERT and of the surface and ends with another; between stand the text's pieces."""
    text = " ".join(FILLER[at % len(FILLER)] for at in range(words))
    pieces = own.pieces(text)
    windows = own._windows(text, "tool_result") or []

    assert len(pieces) == words
    assert len(windows) == len(window_starts(words))
    for start, window in zip(window_starts(words), windows, strict=True):
        assert window.ids == [CLS, surface_token("tool_result"), *pieces[start : start + WINDOW - 3], SEP]
    assert all(len(window.ids) == WINDOW for window in windows if words >= WINDOW - 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1_500), st.integers(0, 1_500))
def test_spans_lead_to_the_text(own: Encoder, before: int, after: int) -> None:
    """The window that decides holds the word that does, in code points, also behind accents and blanks."""
    text = " gar\u0301den  b\u00e9hind\n" * (before // 20) + SHOUTED + f" {SENTENCE}" * (after // 12)
    place = text.index(SHOUTED)

    opinion = own.judge(text)

    assert opinion is not None
    start, end = opinion.span
    assert start <= place < place + len(SHOUTED) <= end <= len(text)
    assert opinion.score > 0.99
    assert not text[start].isspace()
    assert not text[end - 1].isspace()


def test_a_word_counts_wherever_it_stands(own: Encoder) -> None:
    """At the start, on the edge of a window, at the very end; and the windows that were read are told."""
    words = list(FILLER) * 40
    calm = own.judge(" ".join(words))

    assert calm is not None
    assert calm.score < 0.3
    for place in (0, 61, 62, 124, 125, 186, 240, len(words)):
        opinion = own.judge(" ".join([*words[:place], TRUSTED, *words[place:]]))

        assert opinion is not None
        assert opinion.score > 0.99
        assert opinion.windows == len(window_starts(len(words) + 1))


def test_a_book_is_read_up_to_a_bound(own: Encoder) -> None:
    """64 windows and no more: an encoder is for doubt, not for books."""
    near, far = (f"{SENTENCE} " * count + SHOUTED for count in (300, 500))
    (one, other) = own.judge(near), own.judge(far)

    assert one is not None
    assert other is not None
    assert (one.windows, other.windows) == (len(window_starts(3_601)), 64)
    assert one.score > 0.99 > 0.3 > other.score


def test_an_empty_text_is_one_window(own: Encoder, foreign: Encoder) -> None:
    """There is nothing in it, and that is said."""
    for encoder in (own, foreign):
        opinion = encoder.judge("")

        assert opinion is not None
        assert (opinion.span, opinion.windows) == ((0, 0), 1)
        assert opinion.score < 0.3


# --- Opinions ------------------------------------------------------------------------------------------------------


def test_the_outputs_become_probabilities(tmp_path: Path) -> None:
    """Attack is the three kinds together against all else, harm is one against all else; both are calibrated."""
    header = {"slope": 0.5, "offset": 1.0, "harm_slope": 2.0, "harm_offset": -1.0}
    encoder = Encoder(encoder_folder(tmp_path, **header))
    row = np.array([3.0, 0.0, 9.0, 0.0, 0.0])
    attack = np.log(np.exp(row[1:4]).sum() / np.exp(row[[0, 4]]).sum())
    harm = row[4] - np.log(np.exp(row[:4]).sum())

    opinion = encoder.judge(f"the {PLAYED}")

    assert opinion is not None
    assert opinion.logit == pytest.approx(0.5 * attack + 1.0, abs=1e-4)
    assert opinion.score == pytest.approx(1 / (1 + np.exp(-opinion.logit)))
    assert opinion.harm == pytest.approx(1 / (1 + np.exp(-(2.0 * harm - 1.0))), rel=1e-3)
    assert encoder.raw_opinion(f"the {PLAYED}", "prompt") == pytest.approx((attack, harm), abs=1e-4)
    assert encoder.raw([f"the {PLAYED}", "the"], ["prompt"] * 2)[0] == pytest.approx(row)


def test_classes_are_told_apart(own: Encoder) -> None:
    """The likeliest attack is the category, also where harm is louder."""
    for text, category in ((SHOUTED, "injection"), (PLAYED, "jailbreak"), (f"{BURNING} {PLAYED}", "jailbreak")):
        opinion = own.judge(f"the {text} beans")
        assert opinion is not None
        assert opinion.category == category
    harmful = own.judge(f"the {BURNING}")

    assert harmful is not None
    assert harmful.harm > 0.99 > 0.3 > harmful.score


def test_the_surface_is_shown(tmp_path: Path) -> None:
    """A model that hears the mark of tool results judges those otherwise, and surfaces nobody trained are one."""
    folder = encoder_folder(tmp_path)
    loud = {surface_token("tool_result"): [0.0, 9.0, 0.0, 0.0, 0.0], HIDDEN_SURFACE: [0.0, 0.0, 9.0, 0.0, 0.0]}
    (folder / "encoder.onnx").write_bytes(classifier(loud, tokenizer().get_vocab_size()))
    encoder = Encoder(folder)

    scores = {
        surface: opinion.score
        for surface in ("prompt", "tool_result", "telemetry", "unknown")
        if (opinion := encoder.judge("the garden", surface))
    }

    assert scores["prompt"] < 0.3 < 0.99 < scores["tool_result"]
    assert scores["telemetry"] == scores["unknown"] > 0.99


@pytest.mark.parametrize(("known", "unknown", "speaks"), [(4, 1, True), (3, 1, False), (40, 10, True), (40, 11, False)])
def test_it_says_nothing_where_it_does_not_know_the_words(own: Encoder, known: int, unknown: int, speaks: bool) -> None:  # noqa: FBT001
    """Above a fifth of unknown pieces; exactly a fifth is still judged."""
    text = " ".join(["garden"] * (known - 1) + [SHOUTED] + ["\u5ead"] * unknown)

    opinion = own.judge(text)

    assert (opinion is not None) is speaks
    assert own.raw_opinion(text, "prompt")[0] > 2


def test_someone_elses_unknown_words_count_too(tmp_path: Path) -> None:
    """Also where the mark of what is unknown is written in another way."""
    folder = foreign_folder(tmp_path)
    words = (folder / "tokenizer.json").read_text().replace("[UNK]", "<unk>")
    (folder / "tokenizer.json").write_text(words)

    assert Encoder(folder).judge("\u5ead \u5ead") is None


def test_a_folder_of_someone_else_works(foreign: Encoder) -> None:
    """Its own marks, its labels by name, its other inputs, its shorter windows."""
    assert foreign.header == EncoderHeader(classes=("benign", "injection"), marks=False, window=64)
    opinion, calm = foreign.judge(f"{SENTENCE} {TRUSTED}"), foreign.judge(f"{SENTENCE} {SHOUTED}")

    assert opinion is not None
    assert calm is not None
    assert opinion.score > 0.99 > 0.1 > calm.score
    assert (opinion.category, opinion.windows, opinion.span) == ("injection", 1, (0, len(SENTENCE) + 1 + len(TRUSTED)))
    assert opinion.harm < 1e-6
    long = foreign.judge(f"{SENTENCE} " * 20 + TRUSTED)
    assert long is not None
    assert (long.windows, long.score > 0.99) == (len(window_starts(241, 62)), True)
    assert (foreign._windows(TRUSTED, "prompt") or [])[0].ids[::2] == [CLS, SEP]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("LABEL_0", "LABEL_1"), ("benign", "injection")),
        (("BENIGN", "JAILBREAK"), ("benign", "jailbreak")),
        (("benign", "INJECTION", "Extraction", "harmful"), ("benign", "injection", "extraction", "harmful")),
        (("legit", "suspicious", "evil"), ("benign", "injection", "injection")),
        (tuple("safe" if at == 0 else f"kind {at}" for at in range(12)), ("benign", *["injection"] * 11)),
    ],
)
def test_labels_are_read_by_their_names(labels: tuple[str, ...], classes: tuple[str, ...], tmp_path: Path) -> None:
    """In the order of the outputs; what is not known by name and not harmless is an attack."""
    encoder = Encoder(foreign_folder(tmp_path, labels))
    opinion = encoder.judge(TRUSTED)

    assert encoder.header.classes == classes
    assert opinion is not None
    assert (opinion.harm if classes[-1] == "harmful" else opinion.score) > 0.9


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx"])
def test_a_model_is_found_where_exporters_put_it(name: str, tmp_path: Path) -> None:
    """Some write it into a folder below, some name it after what they did."""
    folder = foreign_folder(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "model.onnx").rename(folder / name)

    assert Encoder(folder).judge("the garden") is not None


def test_the_version_follows_the_model(tmp_path: Path) -> None:
    """Twelve digits of its digest, or what its description says."""
    one, other = encoder_folder(tmp_path / "a", version=""), encoder_folder(tmp_path / "b", version="")
    words = tokenizer().get_vocab_size()
    (other / "encoder.onnx").write_bytes(classifier({}, words))

    assert Encoder(one).version == Encoder(one).version != Encoder(other).version
    assert len(Encoder(one).version) == 12
    assert Encoder(encoder_folder(tmp_path / "c", version="mine")).version == "mine"


def test_the_files_of_these_tests_are_valid_models(tmp_path: Path) -> None:
    """What is refused below is refused for the reason that is named."""
    check_model((encoder_folder(tmp_path / "a") / "encoder.onnx").read_bytes())
    check_model((foreign_folder(tmp_path / "b") / "model.onnx").read_bytes())


def test_threads_get_the_same_answers(own: Encoder) -> None:
    """Eight at once, each with texts of several lengths: as one alone."""
    texts = [f"{SENTENCE} " * count + word for count in (1, 7, 30) for word in (SHOUTED, PLAYED, BURNING, "beans")]
    expected = [own.judge(text) for text in texts]
    answers: dict[int, list[Any]] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(30)
        answers[number] = [own.judge(text) for _ in range(5) for text in texts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [answers[number] for number in range(8)] == [expected * 5] * 8


# --- What is broken ------------------------------------------------------------------------------------------------


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, data: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(data if isinstance(data, bytes) else data(old))

    return change


def _config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = next(folder / name for name in ("encoder.json", "config.json") if (folder / name).exists())
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _without_unknown(data: bytes) -> bytes:
    """A tokenizer that has no mark for what it does not know."""
    return data.replace(b'"unk_token":"[UNK]"', b'"unk_token":"[NONE]"')


def _size() -> int:
    return tokenizer().get_vocab_size()


def test_a_model_that_gives_no_number_has_no_opinion(tmp_path: Path) -> None:
    """An overflow in someone's model must not pass for harmless."""
    folder = encoder_folder(tmp_path)
    words = tokenizer()
    loud = {words.token_to_id(SHOUTED): [0.0, float("inf"), 0.0, 0.0, 0.0]}
    (folder / "encoder.onnx").write_bytes(classifier(loud, words.get_vocab_size()))
    encoder = Encoder(folder)

    assert encoder.judge(SENTENCE) is not None
    assert encoder.judge(f"{SENTENCE} {SHOUTED}") is None


NAN = classifier({}, _size(), calm=[float("nan"), 0.0, 0.0, 0.0, 0.0])
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no model": (_without("encoder.onnx"), "holds no ONNX model"),
    "a model cut off": (_with("encoder.onnx", _half), "model cannot be loaded"),
    "an empty model": (_with("encoder.onnx", b""), "model"),
    "a model of text": (_with("encoder.onnx", b"weights"), "model cannot be loaded"),
    "a model of another class count": (_with("encoder.onnx", classifier({}, _size(), calm=[1.0, 0.0])), "5 classes"),
    "a model of another vocabulary": (_with("encoder.onnx", classifier({}, 60)), "its tokenizer's vocabulary"),
    "a model of shorter windows": (_with("encoder.onnx", classifier({}, _size(), places=100)), "does not take 128"),
    "a model without numbers": (_with("encoder.onnx", NAN), "no numbers"),
    "no tokenizer": (_without("tokenizer.json"), "cannot be read"),
    "a tokenizer cut off": (_with("tokenizer.json", _half), "tokenizer.json cannot be read"),
    "an empty tokenizer": (_with("tokenizer.json", b"{}"), "tokenizer.json cannot be read"),
    "a tokenizer of bytes": (_with("tokenizer.json", b"\xff\x00"), "tokenizer.json cannot be read"),
    "a tokenizer at a loss": (_with("tokenizer.json", _without_unknown), "tokenizer.json cannot be read"),
    "a tokenizer with a piece too many": (
        _with("tokenizer.json", lambda data: data.replace(b'"beans":', b'"beans":9999,"bean":')),
        "its tokenizer's vocabulary",
    ),
    "no description": (_without("encoder.json"), "cannot be read"),
    "a description cut off": (_with("encoder.json", _half), "is not what it should be"),
    "a description of bytes": (_with("encoder.json", b"\xff"), "is not what it should be"),
    "a description without end": (_with("encoder.json", b'{"x":' + b"[" * 100_000), "is not what it should be"),
    "a list": (_with("encoder.json", b"[]"), "is not what it should be"),
    "unknown classes": (_config(classes=["benign", "evil"]), "classes"),
    "no benign class": (_config(classes=["injection", "jailbreak", "extraction", "harmful"]), "benign"),
    "no attack": (_config(classes=["benign", "harmful"]), "at least one kind of attack"),
    "no classes": (_config(classes=[]), "classes"),
    "a window too small": (_config(window=3), "window"),
    "a window too large": (_config(window=1 << 20), "window"),
    "a window of words": (_config(window="128"), "window"),
    "a slope of zero": (_config(slope=0.0), "slope"),
    "a slope beyond numbers": (_with("encoder.json", b'{"slope": 1e999}'), "is not what it should be"),
}

BROKEN_FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no description": (_without("config.json"), "cannot be read"),
    "a description without end": (_with("config.json", b'{"x":' + b"[" * 100_000), "config.json"),
    "a description of bytes": (_with("config.json", b"\xff{"), "config.json"),
    "no labels": (_with("config.json", b"{}"), "id2label"),
    "labels in a list": (_config(id2label=["SAFE", "INJECTION"]), "id2label"),
    "no benign label": (_config(id2label={"0": "INJECTION", "1": "JAILBREAK"}), "benign"),
    "only benign labels": (_config(id2label={"0": "SAFE", "1": "BENIGN"}), "benign"),
    "only harm": (_config(id2label={"0": "SAFE", "1": "HARMFUL"}), "benign"),
    "no label at all": (_config(id2label={}), "benign"),
    "a label too many": (_config(id2label={"0": "SAFE", "1": "INJECTION", "2": "JAILBREAK"}), "3 classes"),
    "no room": (_config(max_position_embeddings=2), "fewer than 8"),
    "room below zero": (_config(max_position_embeddings=-1), "fewer than 8"),
    "more room than there is": (_config(max_position_embeddings=512), "does not take 512"),
}


def _refused(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)

    with pytest.raises(ConfigError) as error:
        Encoder(folder)

    assert said in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_a_clear_error(case: str, tmp_path: Path) -> None:
    """It says what is wrong and what to do; nothing waits until the first attack comes."""
    _refused(encoder_folder(tmp_path), *BROKEN[case])


@pytest.mark.parametrize("case", BROKEN_FOREIGN)
def test_a_broken_folder_of_someone_else_is_a_clear_error(case: str, tmp_path: Path) -> None:
    """A label set without a benign class is refused: what it says could not be told from silence."""
    _refused(foreign_folder(tmp_path), *BROKEN_FOREIGN[case])


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    """No stray OSError, for a file neither."""
    file = tmp_path / "file"
    file.write_text("x")
    for path in (tmp_path / "none", file, tmp_path):
        with pytest.raises(ConfigError, match="holds no ONNX model"):
            Encoder(path)


def test_a_tokenizer_that_panics_is_a_clear_error(tmp_path: Path) -> None:
    """Marks that its own table does not know make its Rust panic, which is no `Exception`."""
    folder = foreign_folder(tmp_path)
    told = json.loads((folder / "tokenizer.json").read_text())
    told["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(told))

    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        Encoder(folder)


def test_a_window_of_marks_alone_is_refused(tmp_path: Path) -> None:
    """A tokenizer that puts more marks around a text than a window holds leaves no room for it."""
    folder = foreign_folder(tmp_path, max_position_embeddings=8)
    told = json.loads((folder / "tokenizer.json").read_text())
    mark = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    told["post_processor"]["single"] = [*[mark] * 9, {"Sequence": {"id": "A", "type_id": 0}}]
    (folder / "tokenizer.json").write_text(json.dumps(told))

    with pytest.raises(ConfigError, match="no numbers"):
        Encoder(folder)


def test_the_classes_are_the_ones_of_the_fast_tier() -> None:
    """Both tiers speak of the same things, in the same order."""
    from shieldwall.detect.fast import CLASSES as FAST

    assert CLASSES == FAST
