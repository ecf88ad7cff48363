# SPDX-License-Identifier: Apache-2.0
"""What each package shows: few names, all real, all explained; and `import shieldwall` loads next to nothing."""

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import shieldwall
from shieldwall.core.errors import ConfigError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "words.json").read_text())
FACES: dict[str, list[str]] = GOLDEN["faces"]
HEAVY = frozenset(
    "numpy numba onnx onnxruntime tokenizers torch pyarrow hyperscan re2 cedarpy aiohttp uvicorn uvloop cryptography"
    " asyncio".split()
)
TORCH = frozenset({"shieldwall.lab.bert", "shieldwall.lab.teach_encoder", "shieldwall.lab.teach_fast"})
"""Modules written in PyTorch, which no lock has: they are read here, never imported."""
DRAWING_IN = frozenset({"shieldwall.lab.fast_trainer"})
"""Modules that load one of these as soon as they are loaded: they are read, too, and imported late by all others."""


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after one statement."""
    script = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_import_shieldwall_is_light() -> None:
    """Nothing that takes long to load is loaded for somebody who only wants the words."""
    loaded = loaded_by("import shieldwall")

    assert "shieldwall" in loaded
    assert not loaded & HEAVY


def test_a_heavy_module_would_be_noticed() -> None:
    """The check above bites: what a module loads is seen from outside."""
    loaded = loaded_by("import shieldwall, uvicorn")

    assert {"uvicorn", "asyncio"} <= loaded & HEAVY


def test_import_shieldwall_loads_core_only() -> None:
    """No column, no beam and no roof comes along: their cost is paid at use."""
    script = "import sys, shieldwall; print(*(name for name in sys.modules if name.startswith('shieldwall.')))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert {name.split(".")[1] for name in done.stdout.split()} == {"core"}


def test_a_guard_is_one_call_away() -> None:
    """`shieldwall.open()` gives a working guard without a file, a directory or a node."""
    guard = shieldwall.open()

    verdict = guard.inspect_text("Could you tell me how tall the Eiffel Tower is?")

    assert isinstance(guard, shieldwall.Guard)
    assert verdict.action is shieldwall.Action.ALLOW
    assert verdict.entry is None


def test_open_names_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    """A misspelt key is an error of ours that names key and file."""
    path = tmp_path / "shield.toml"
    path.write_text('profil = "strict"\n')

    with pytest.raises(ConfigError, match=r"shield\.toml: unknown key profil") as caught:
        shieldwall.open(path)

    assert caught.value.hint == "did you mean profile?"


def packages() -> list[str]:
    """Every package of the house that exists now, except those that show nothing."""
    below = pkgutil.iter_modules(shieldwall.__path__, "shieldwall.")
    faceless = {"shieldwall.core", "shieldwall.verbs"}
    return ["shieldwall", *(each.name for each in below if each.ispkg and each.name not in faceless)]


def test_every_face_is_golden() -> None:
    """A new package, or one that went away, is noticed here."""
    there = set(packages())

    assert there == set(FACES)


@pytest.mark.parametrize("name", FACES)
def test_a_face_shows_exactly_its_golden_names(name: str) -> None:
    """Adding or removing a name of a face is a decision, not an accident."""
    module = importlib.import_module(name)

    assert sorted(module.__all__) == sorted(FACES[name])
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name", FACES)
def test_every_exported_name_exists_and_is_explained(name: str) -> None:
    """A class or a function has a docstring of its own, and so has each public method it defines."""
    module = importlib.import_module(name)

    silent = [where for each in module.__all__ for where in undocumented(each, getattr(module, each))]

    assert (module.__doc__ or "").strip()
    assert silent == []


def undocumented(name: str, value: object) -> list[str]:
    """The exported name and its public methods that have no docstring; constants need none."""
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return []
    found = [] if (inspect.getdoc(value) if inspect.isroutine(value) else value.__doc__) else [name]
    if inspect.isclass(value) and value.__module__.startswith("shieldwall."):
        for member, of in vars(value).items():
            if member.startswith("_") or not (inspect.isroutine(of) or isinstance(of, property)):
                continue
            # A method of a seam may be explained where the seam is: `getdoc` looks up the classes above.
            if not inspect.getdoc(getattr(value, member)):
                found.append(f"{name}.{member}")
    return found


def test_a_missing_docstring_would_be_noticed() -> None:
    """The check above bites."""

    class Silent:
        def said(self) -> None:
            """Explained."""

        def unsaid(self) -> None:
            pass

    Silent.__module__ = "shieldwall.made.up"
    found = undocumented("Silent", Silent)

    assert found == ["Silent", "Silent.unsaid"]


def module_names() -> list[str]:
    """Every module of the house."""
    return [each.name for each in pkgutil.walk_packages(shieldwall.__path__, "shieldwall.")]


def modules() -> list[ModuleType]:
    """Those that need nothing beyond the locks; importing them all is itself part of the test."""
    return [importlib.import_module(name) for name in module_names() if name not in TORCH | DRAWING_IN]


def sources() -> dict[str, str]:
    """The text of every module, imported or not."""
    found = {name: importlib.util.find_spec(name) for name in module_names()}
    return {name: Path(spec.origin).read_text("utf-8") for name, spec in found.items() if spec and spec.origin}


def imported_by(source: str) -> Iterator[str]:
    """Full names of the modules that a source imports, at its head or anywhere else."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def loaded_at_once(source: str) -> set[str]:
    """Those that are imported as soon as the module is: nothing inside a function, nothing for types alone."""
    head = [
        node
        for node in ast.parse(source).body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return set(imported_by(ast.unparse(ast.Module(head, []))))


def test_every_module_opens_with_its_licence_and_its_sentence() -> None:
    """Each file says what it may be used for and what it is."""
    licence = "# SPDX-License-Identifier: Apache-2.0\n"
    wrong = [
        name
        for name, text in sources().items()
        if not text.startswith(licence) or not (ast.get_docstring(ast.parse(text)) or "").strip()
    ]

    assert wrong == []


def test_torch_is_imported_by_training_alone() -> None:
    """By exactly the modules named above, and nothing that is loaded without being asked for loads one of them."""
    read = sources()
    written_in_it = {
        name for name, text in read.items() if any(f"{m}.".startswith("torch.") for m in imported_by(text))
    }
    drawing_in = {name for name, text in read.items() if loaded_at_once(text) & (TORCH | DRAWING_IN)}

    assert set(read) == set(module_names())
    assert written_in_it == TORCH
    assert drawing_in - TORCH == DRAWING_IN


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "def f():\n    import torch.nn", "if a:\n    from torch.nn import Linear"],
)
def test_an_import_of_torch_would_be_noticed(source: str) -> None:
    """The check above bites; a name that only begins alike is none."""
    assert any(f"{name}.".startswith("torch.") for name in imported_by(source))
    assert not any(f"{name}.".startswith("torch.") for name in imported_by("import torchlight, numpy"))
    assert loaded_at_once("from shieldwall.lab import bert") & TORCH
    assert not loaded_at_once("def f():\n    from shieldwall.lab import bert") & TORCH


def test_every_public_list_is_true() -> None:
    """`__all__` of every module names only what the module has."""
    lies = [f"{m.__name__}.{name}" for m in modules() for name in getattr(m, "__all__", ()) if not hasattr(m, name)]

    assert lies == []
