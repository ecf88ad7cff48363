# SPDX-License-Identifier: Apache-2.0
"""Every parser holds its property on its seeds and on what grows from them; and the runner finds what it should."""

import importlib
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz.__main__ import MAX_BYTES, Target, inputs, main, run, targets

TARGETS = {target.name: target for target in targets()}
SEED = "of-this-release"
SLOW_SECONDS = 8.0


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_on_its_seeds(name: str) -> None:
    """Each seed alone, in order: a failure names the first that breaks."""
    for seed in TARGETS[name].seeds:
        TARGETS[name].fuzz(seed)

    assert TARGETS[name].seeds


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_on_what_grows_from_its_seeds(name: str) -> None:
    """Some seconds of mutated input; the same inputs in every run, as far as the time reaches."""
    outcome = run(TARGETS[name], SLOW_SECONDS, SEED)

    assert outcome.error is None, f"{outcome.error!r} on {outcome.failing!r}"
    assert outcome.executions >= len(TARGETS[name].seeds)


def test_every_parser_that_faces_a_stranger_has_a_target() -> None:
    """What reads bytes from outside, by the name of its target."""
    parsers = (
        "anthropic checkpoint config control cosignature encoder_folder fast_file grammar hours inspect journal keys "
        "merkle note openai points policy proof_file register replay rules signatures sse suite text tiles trust vkey "
        "witness"
    )

    assert {name.removeprefix("fuzz_") for name in TARGETS} >= set(parsers.split())


def test_the_same_seed_gives_the_same_inputs() -> None:
    """A run can be had again by its printed seed; another seed gives another run."""
    seeds = [b'{"a": [1, 2, 3]}', b"plain"]

    one, two, other = (list(islice(inputs(seeds, seed), 500)) for seed in ("x", "x", "y"))

    assert one == two
    assert one != other
    assert one[:2] == seeds


def test_inputs_are_many_and_bounded() -> None:
    """Hardly any input comes twice, none is over the bound, and nearly right ones are among them."""
    seed = b'{"text": "hello", "surface": "prompt"}'

    found = list(islice(inputs([seed], "x"), 2_000))

    assert len(set(found)) > 1_500
    assert max(map(len, found)) <= MAX_BYTES
    assert sum(each[:8] == seed[:8] for each in found) > 500


def test_no_seed_at_all_is_no_trouble() -> None:
    """A seed may be empty: mutation begins with nothing."""
    assert len(list(islice(inputs([b""], "x"), 1_000))) == 1_000


def test_a_broken_property_is_found() -> None:
    """A fault three bytes deep behind a seed is reached, and the input that reached it comes back."""

    def fuzz(data: bytes) -> None:
        if data[:4] == b"abcd" and data[4:5] not in {b"e", b""}:
            raise KeyError("broken")

    outcome = run(Target("fuzz_broken", fuzz, [b"abcdefgh"]), 20.0, "x")

    assert isinstance(outcome.error, KeyError)
    assert outcome.failing is not None
    assert outcome.failing[:4] == b"abcd"
    with pytest.raises(KeyError):
        fuzz(outcome.failing)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of targets made up for one test."""
    folder = tmp_path / "made_up_targets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "fuzz_sound.py").write_text("SEEDS = [b'a']\ndef fuzz(data): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("made_up_targets")
    for name in [name for name in sys.modules if name.startswith("made_up_targets")]:
        del sys.modules[name]


def test_a_clean_run_says_so(package: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, the seed, and how often each target was run."""
    code = main(["0.05", "--seed", "x"], package)

    out = capsys.readouterr().out
    assert code == 0
    assert "1 targets, 0.05 s, seed x" in out
    assert "ok    fuzz_sound" in out


def test_a_failing_input_is_kept(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, a file with the input, its path and its first bytes in hex; the other targets are run too."""
    broken = "SEEDS = [b'\\x00bad']\ndef fuzz(data): raise KeyError\n"
    (tmp_path / "made_up_targets" / "fuzz_broken.py").write_text(broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    code = main(["0.02"], package)

    out = capsys.readouterr().out
    kept = list(tmp_path.glob("fuzz_broken-*.bin"))
    assert code == 1
    assert [path.read_bytes() for path in kept] == [b"\x00bad"]
    assert f"{kept[0]}: 00 62 61 64" in out
    assert "ok    fuzz_sound" in out


def test_a_module_that_is_no_target_is_named(package: ModuleType, tmp_path: Path) -> None:
    """Without seeds nothing would be tried: that is an error, not a pass."""
    (tmp_path / "made_up_targets" / "fuzz_empty.py").write_text("SEEDS = []\ndef fuzz(data): pass\n")

    with pytest.raises(ValueError, match="fuzz_empty is no target"):
        targets(package)


def test_a_name_that_fits_no_target_is_usage(package: ModuleType) -> None:
    """Nothing run is not success."""
    assert main(["0.01", "--only", "no-such"], package) == 64
