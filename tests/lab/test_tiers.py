# SPDX-License-Identifier: Apache-2.0
"""The learned tiers as defences: what they say is what the tier says, by name, by file and by folder.

How well the packaged weights judge is no matter of these tests: that is measured in the range.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Surface
from shieldwall.core.text import fold
from shieldwall.detect import Encoder, FastTier, encode_fast
from shieldwall.lab import Item
from shieldwall.lab.defence import Defence
from shieldwall.lab.defences import builtin, make, names
from shieldwall.lab.tiers import EncoderDefence, FastDefence
from tests.detect.weights import (
    FILLER,
    HINTED,
    SHOUTED,
    TRUSTED,
    encoder_folder,
    foreign_folder,
    random_tier,
    telling_fast,
)

PLAIN = " ".join(FILLER)
ITEMS = [
    Item(f"{PLAIN} {SHOUTED}."),
    Item(PLAIN),
    Item(""),
    Item(f"{PLAIN} {HINTED}", Surface.TOOL_RESULT),
    # Full width letters: both are shown the text as it is folded.
    Item("".join(chr(ord(each) + 0xFEE0) for each in SHOUTED), Surface.DOCUMENT),
]


def scores(defence: Defence, items: list[Item]) -> list[float]:
    judged = defence.judge(items)
    assert all(each.flagged is None and not each.failure for each in judged)
    return [each.score for each in judged]


def test_the_fast_tier_says_the_worst_of_its_windows() -> None:
    """A probability of each text in order; the loud word stands out, however it is written and wherever."""
    defence = FastDefence(FastTier(telling_fast()))
    long = Item(f"{PLAIN} " * 40 + SHOUTED + f" {PLAIN}" * 40)

    loud, plain, empty, hint, wide, needle = scores(defence, [*ITEMS, long])

    assert min(loud, wide, needle) > 0.9 > 0.5 > max(plain, empty, hint)
    assert hint > plain
    assert defence.describe().version == "telling"
    assert defence.describe().kind == "detector"


def test_the_fast_tier_is_told_the_surface() -> None:
    """Random weights have a bias of their own for each; the score is that of the tier itself."""
    tier = random_tier()

    for surface in Surface:
        found = scores(FastDefence(tier), [Item(PLAIN, surface)])

        assert found == [tier.judge(PLAIN.encode(), surface.value).score]
    assert len({round(scores(FastDefence(tier), [Item(PLAIN, surface)])[0], 9) for surface in Surface}) > 3


def test_the_encoder_says_its_probability(tmp_path: Path) -> None:
    """Calibrated as its description says; what it does not hear is harmless."""
    encoder = Encoder(encoder_folder(tmp_path, slope=0.5, offset=-0.25))
    defence = EncoderDefence(encoder)

    loud, plain, empty, hint, wide = scores(defence, ITEMS)

    assert min(loud, wide) > 0.8 > 0.5 > max(plain, empty, hint)
    assert [loud, plain] == [getattr(encoder.judge(fold(item.text)), "score", None) for item in ITEMS[:2]]
    assert defence.describe().version == "tiny"


def test_an_encoder_without_an_opinion_finds_nothing(tmp_path: Path) -> None:
    """A language that its vocabulary does not know: zero, not an error and no gap."""
    defence = EncoderDefence(Encoder(encoder_folder(tmp_path)))

    unknown, loud = scores(defence, [Item(f"\u96e8 \u96ea \u98a8 \u6d77 {TRUSTED}"), Item(TRUSTED)])

    assert unknown == 0.0
    assert loud > 0.9


def test_a_file_and_a_folder_are_defences(tmp_path: Path) -> None:
    """`fast:FILE`, `encoder:DIR` in our layout and in that of others; each says which weights it has."""
    file = tmp_path / "own.npz"
    file.write_bytes(encode_fast(telling_fast()))
    ours, theirs = encoder_folder(tmp_path / "ours"), foreign_folder(tmp_path / "theirs")

    fast, own, foreign = make(f"fast:{file}"), make(f"encoder:{ours}"), make(f"encoder:{theirs}")

    for defence, word in ((fast, SHOUTED), (own, SHOUTED), (foreign, TRUSTED)):
        heard, plain = scores(defence, [Item(f"{PLAIN} {word}"), Item(PLAIN)])
        assert heard > 0.9 > 0.5 > plain
        defence.close()
    versions = [each.describe().version for each in (fast, own, foreign, builtin("fast"), builtin("encoder"))]
    assert all(versions)
    assert len(set(versions)) == 5


def test_the_packaged_tiers_have_names() -> None:
    """Each by itself and all together, and each of them gives probabilities; the cascade names all its parts."""
    assert set(names()) == {"rules", "fast", "encoder", "cascade"}

    made = {name: builtin(name) for name in names()}

    for name, defence in made.items():
        assert defence.name == name
        assert all(0 <= each <= 1 for each in scores(defence, [Item(PLAIN), Item(""), Item("\0")]))
    tier, encoder = FastTier(), Encoder()
    said = [made["rules"].describe().version[:8], tier.version[:8], encoder.version[:8]]
    assert made["cascade"].describe().version == "-".join(said)
    assert scores(made["fast"], [Item(PLAIN)]) == [tier.judge(PLAIN.encode()).score]
    opinion = encoder.judge(PLAIN)
    assert opinion is not None
    assert scores(made["encoder"], [Item(PLAIN)]) == [opinion.score]


def test_the_cascade_knows_what_the_rules_know() -> None:
    """It is never below them where they find an attack."""
    item = Item("SHIELDWALL-TEST-ATTACK-7f3a9c", Surface.TOOL_RESULT)

    assert scores(builtin("cascade"), [item])[0] >= scores(builtin("rules"), [item])[0] > 0.5


def cut(folder: Path) -> str:
    """Weights of which the end is missing."""
    (folder / "cut.npz").write_bytes(encode_fast(telling_fast())[:-200])
    return f"fast:{folder / 'cut.npz'}"


def bare(folder: Path) -> str:
    """A folder without a model."""
    encoder_folder(folder / "bare")
    (folder / "bare" / "encoder.onnx").unlink()
    return f"encoder:{folder / 'bare'}"


def swapped(folder: Path) -> str:
    """A folder in which the model is something else."""
    encoder_folder(folder / "swapped")
    (folder / "swapped" / "encoder.onnx").write_bytes(b"no model")
    return f"encoder:{folder / 'swapped'}"


@pytest.mark.parametrize(
    "spec",
    [
        cut,
        bare,
        swapped,
        lambda folder: f"fast:{folder / 'absent.npz'}",
        lambda folder: f"fast:{folder}",
        lambda folder: f"encoder:{folder / 'absent'}",
        lambda _: "fast:",
        lambda _: "encoder:",
    ],
)
def test_what_cannot_be_loaded_is_an_error_of_ours(spec: Callable[[Path], str], tmp_path: Path) -> None:
    """Before anything is measured."""
    with pytest.raises(ConfigError):
        make(spec(tmp_path))


def test_an_unknown_name_is_answered_with_all_there_are() -> None:
    """The forms with a file or a folder, too."""
    with pytest.raises(ConfigError, match="no defence slow") as caught:
        make("slow")

    assert all(word in caught.value.hint for word in ("rules, fast, encoder, cascade", "fast:FILE", "encoder:DIR"))
