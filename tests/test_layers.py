# SPDX-License-Identifier: Apache-2.0
"""Every arrow points down: who may import whom, read from the source itself.

All imports count: at the top, inside functions, and those for types only. The rules are those of the design: ground,
columns, loft, beam, roof; columns meet through ports that the node fills, never directly.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import shieldwall

SOURCE = Path(shieldwall.__file__).parent

COLUMNS = frozenset({"gateway", "detect", "watch", "govern", "ledger", "exchange", "seal", "adapters"})
LOFT = frozenset({"lab", "console"})
ROOF = frozenset({"server", "verbs", "cli"})

OUTSIDE = frozenset(
    """asyncio fcntl glob http io mmap multiprocessing os pathlib random sched secrets select selectors shelve shutil
    signal socket socketserver sqlite3 ssl subprocess tempfile threading time urllib urllib3 uuid aiohttp requests httpx
    uvloop uvicorn""".split()
)
"""Modules with a disk, a socket, a clock or chance of their own. Core is given all four by the node.

`importlib.resources` is not among them: data that ships inside the package is code in another notation.
"""

CLOCKS = frozenset({"now", "utcnow", "today"})


class Import(NamedTuple):
    """One import of one module."""

    target: str
    line: int
    in_function: bool


def offences(root: Path) -> list[str]:
    """Every import below `root`, a `shieldwall` source tree, that the design does not allow; and every cycle."""
    modules = {_name(root, path): path for path in sorted(root.rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text("utf-8"), str(path))
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imports = list(_imports(tree, package, frozenset(modules)))
        graph[module] = {each.target for each in imports if each.target in modules} - {module}
        found += [
            f"{module}:{each.line} imports {each.target}"
            for each in imports
            if not _allowed(module, each, in_house=each.target.partition(".")[0] == "shieldwall")
        ]
        if _unit(module) == "core":
            found += [f"{module}:{line} reaches outside with {what}" for line, what in _reaches(tree)]
        if _unit(module) not in COLUMNS | LOFT | ROOF | {"", "core", "node"}:
            found.append(f"{module} has no place in the house")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"cycle: {' -> '.join(error.args[1])}")
    return found


def _name(root: Path, path: Path) -> str:
    parts = ["shieldwall", *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _unit(module: str) -> str:
    """First name below the package: a column, `core`, `node` …; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _imports(tree: ast.AST, package: str, modules: frozenset[str], *, in_function: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *base.split(".")])
                base = base.rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in modules else base, node.lineno, inside)
        elif isinstance(node, ast.Call) and _is_importer(node.func):
            # An import written as a call: what it imports must be readable here.
            name = node.args[0] if node.args else None
            yield Import(str(name.value) if isinstance(name, ast.Constant) else "<computed>", node.lineno, inside)
        yield from _imports(node, package, modules, in_function=inside)


def _is_importer(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def _allowed(module: str, each: Import, *, in_house: bool) -> bool:
    unit = _unit(module)
    if not in_house:
        return each.target != "<computed>" and (unit != "core" or each.target.partition(".")[0] not in OUTSIDE)
    target, below = _unit(each.target), each.target.count(".") > 1
    if target == "core" or (target == unit != ""):
        return True
    face = target in COLUMNS and not below
    match unit:
        case "":
            return target == "node" and each.in_function
        case "node":
            return face
        case "server" | "verbs":
            loft = target in LOFT and not below
            return face or loft or target in {"node", ""} or (unit, target) == ("verbs", "server")
        case "cli":
            return target in {"verbs", ""}
        case _:
            return unit in LOFT and face


def _reaches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls in core that open a file or read a clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}:
                yield node.lineno, f"{node.func.id}()"
            elif isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
                yield node.lineno, f".{node.func.attr}()"


def test_every_import_points_down() -> None:
    """The source as it stands breaks no rule of the house and holds no cycle."""
    found = offences(SOURCE)

    assert found == []


def test_the_test_reads_the_whole_house() -> None:
    """An empty walk would pass too: the files that must be there are among those read."""
    read = {_name(SOURCE, path) for path in SOURCE.rglob("*.py")}

    assert {f"shieldwall.{name}" for name in ("node", "core.guard", "gateway.keys", "verbs.up", "cli")} <= read


OFFENDERS = {
    "core imports a column": ("core/a.py", "from shieldwall.gateway import Keys"),
    "core imports the node for a type": (
        "core/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shieldwall.node",
    ),
    "core has a clock": ("core/a.py", "import time"),
    "core has a clock inside a function": ("core/a.py", "def f():\n    from time import monotonic"),
    "core reads the time of day": ("core/a.py", "import datetime\nx = datetime.datetime.now()"),
    "core has a disk": ("core/a.py", "from pathlib import Path"),
    "core opens a file": ("core/a.py", "def f():\n    return open('x')"),
    "core has a submodule of a socket": ("core/a.py", "import urllib.request"),
    "core has chance": ("core/a.py", "import secrets"),
    "a column imports its neighbour": ("gateway/a.py", "from shieldwall.ledger import Journal"),
    "a column imports its neighbour for a type": (
        "gateway/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shieldwall.ledger import Journal",
    ),
    "a column imports its neighbour late": ("gateway/a.py", "async def f():\n    import shieldwall.ledger.journal"),
    "a column imports its neighbour relatively": ("gateway/a.py", "from ..ledger import Journal"),
    "a column imports its neighbour by a call": (
        "gateway/a.py",
        "import importlib\nimportlib.import_module('shieldwall.ledger')",
    ),
    "a column hides what it imports": (
        "gateway/a.py",
        "import importlib\nimportlib.import_module('shield' + 'wall.x')",
    ),
    "a column imports the beam": ("ledger/a.py", "from shieldwall.node import Config"),
    "a column imports the loft": ("adapters/a.py", "from shieldwall.console import Console"),
    "a column imports the package's face": ("detect/a.py", "from shieldwall import Guard"),
    "the loft looks behind a face": ("console/a.py", "from shieldwall.gateway.keys import Keys"),
    "the loft looks behind a face by name": ("console/a.py", "from shieldwall.gateway import keys"),
    "the loft imports the beam": ("lab/a.py", "from shieldwall.node import Node"),
    "the beam looks behind a face": ("node.py", "from shieldwall.gateway.keys import Keys"),
    "the beam imports the roof": ("node.py", "from shieldwall.server import serve"),
    "the beam imports the loft": ("node.py", "from shieldwall.console import Console"),
    "the roof looks behind a face": ("verbs/a.py", "from shieldwall.ledger.journal import Journal"),
    "the server imports a verb": ("server.py", "from shieldwall.verbs import up"),
    "the command line imports a column": ("cli.py", "from shieldwall.gateway import Keys"),
    "the command line imports the beam": ("cli.py", "import shieldwall.node"),
    "the package imports the beam at once": ("__init__.py", "from shieldwall.node import open_guard"),
    "the package imports a column late": ("__init__.py", "def open():\n    from shieldwall.gateway import Keys"),
    "a module has no place": ("helpers.py", "x = 1"),
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree that breaks no rule."""
    files = {
        "__init__.py": "from shieldwall.core.word import x\ndef open():\n    from shieldwall.node import n",
        "core/__init__.py": "",
        "core/word.py": "import msgspec\nfrom datetime import UTC\nx = 1",
        "gateway/__init__.py": "from shieldwall.gateway.keys import Keys",
        "gateway/keys.py": "import os\nfrom shieldwall.core import word\nfrom shieldwall.gateway.base import b",
        "gateway/base.py": "b = 1",
        "ledger/__init__.py": "from .journal import Journal",
        "ledger/journal.py": "from ..core.word import x",
        "console/__init__.py": "from shieldwall.gateway import Keys",
        "node.py": "from shieldwall.gateway import Keys\nfrom shieldwall.ledger import Journal\nn = 1",
        "server.py": "from shieldwall.console import Console\nfrom shieldwall.node import n",
        "verbs/__init__.py": "",
        "verbs/up.py": "from shieldwall import x\nfrom shieldwall.node import n\nfrom shieldwall.server import serve",
        "cli.py": "from shieldwall import x\nfrom shieldwall.verbs import up",
    }
    root = tmp_path / "shieldwall"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_a_sound_house_has_no_offence(house: Path) -> None:
    """What the design allows is not complained of, so an offence below is the one that was planted."""
    found = offences(house)

    assert found == []


@pytest.mark.parametrize("case", OFFENDERS)
def test_an_offender_is_named(house: Path, case: str) -> None:
    """Each rule bites: one planted import gives one complaint that names its module, besides a cycle it may close."""
    name, text = OFFENDERS[case]
    path = house / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{text}\n")

    found = [each for each in offences(house) if not each.startswith("cycle: ")]

    assert len(found) == 1
    assert found[0].startswith(_name(house, path))


@pytest.mark.parametrize("late", [False, True])
def test_a_cycle_is_named(house: Path, *, late: bool) -> None:
    """Two modules of one column that need each other are found, also when one of the imports is inside a function."""
    line = "from shieldwall.gateway.keys import Keys"
    (house / "gateway/base.py").write_text(f"def f():\n    {line}\n" if late else f"{line}\n")

    found = offences(house)

    assert len(found) == 1
    assert found[0].startswith("cycle: ")
    assert "shieldwall.gateway.base" in found[0]
