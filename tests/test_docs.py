# SPDX-License-Identifier: Apache-2.0
"""What the documentation says is there, is there: every link, every command, every setting, every decision."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from shieldwall import cli
from shieldwall.core import config
from shieldwall.node import Config

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = frozenset(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = frozenset(re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))

_FENCE = re.compile(
    r"^(?P<fence>```+|~~~+)(?P<kind>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL
)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(
    r"!?\[[^\]]*\]\(<?([^()\s>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.MULTILINE
)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def pages(root: Path = ROOT) -> list[Path]:
    """Everything people are meant to read: the pages beside the code, and all below `docs`."""
    return sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md"))


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    """Fenced blocks of these kinds."""
    for found in _FENCE.finditer(page.read_text("utf-8")):
        if found["kind"] in kinds:
            yield found["body"]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as forges make them."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    titles = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere: no such file, or no such heading in it."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text("utf-8")))
    broken = []
    for link in (one or other for one, other in _LINK.findall(text)):
        if _OUTSIDE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{page.name}: {link}")
    return broken


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words; a prompt, if there is one, marks which lines are commands."""
    text = block.replace("\\\n", " ")
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)
        except ValueError:
            # A quotation that goes on in the next line: not a command of ours.
            continue


def wrong_command(words: list[str]) -> str:
    """What is wrong with a command that calls `shieldwall` or `make`; empty for all others."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return ""
    called, arguments = words[0].rpartition("/")[2], words[1:]
    if called == "make":
        named = [word for word in arguments if "=" not in word]
        given = [word.partition("=")[0] for word in arguments if "=" in word]
        unknown = [*sorted(set(named) - TARGETS), *sorted(set(given) - VARIABLES - {"PYTHON"})]
        return f"make knows no {', '.join(unknown)}" if unknown else ""
    if called == "shieldwall":
        try:
            cli.parser().parse_args(arguments)
        except SystemExit as error:
            # 0 is `--help` or `--version`, which a page may well show.
            return f"shieldwall {' '.join(arguments)}" if error.code else ""
    return ""


def test_there_is_something_to_read() -> None:
    """The checks below look at pages; these must be among them."""
    names = {str(page.relative_to(ROOT)) for page in pages()}

    assert {"README.md", "docs/why.md", "docs/quickstart.md", "docs/configuration.md"} <= names
    assert any(True for page in pages() for _ in blocks(page, "sh"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files and headings that a page points to exist."""
    assert broken_links(page) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_can_be_typed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verbs, options and choices of `shieldwall`, targets and variables of `make`."""
    typed = [words for block in blocks(page, "sh", "shell", "bash", "console") for words in commands(block)]

    assert [wrong for words in typed if (wrong := wrong_command(words))] == []
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_is_python(page: Path) -> None:
    """Each block parses, and what it imports from `shieldwall` exists."""
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shieldwall"):
                exec(compile(ast.Module([node], []), str(page), "exec"), {})


def test_the_configuration_page_shows_settings_that_exist() -> None:
    """Every TOML block of that page is a configuration that can be used."""
    shown = list(blocks(ROOT / "docs" / "configuration.md", "toml"))

    assert shown
    assert all(isinstance(config.parse(block, Config), Config) for block in shown)


def test_decisions_are_numbered_without_gaps() -> None:
    """0001, 0002 …, one page each, each in the list."""
    folder = ROOT / "docs" / "decisions"
    names = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    listed = re.findall(r"\((\d{4}-[^)]*\.md)\)", (folder / "README.md").read_text("utf-8"))

    assert [name[:5] for name in names] == [f"{number:04d}-" for number in range(1, len(names) + 1)]
    assert listed == names


def test_every_decision_says_what_would_change_it() -> None:
    """A decision page has a title and its four parts: context, options, choice, what would change our mind."""
    parts = ("Context", "Options", "Choice", "What would change our mind")
    missing = [
        f"{path.name}: {part}"
        for path in sorted((ROOT / "docs" / "decisions").glob("0*.md"))
        for part in parts
        if not re.search(rf"^(?:## |\*\*){part}\b", path.read_text("utf-8"), re.MULTILINE)
    ]

    assert missing == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](there.md)", []),
        ("[a](there.md#its-heading-2)", []),
        ("[a](#here)\n\n# Here", []),
        ("[a](https://example.org/x) `[b](no.md)`\n```sh\n[c](no.md)\n```\n", []),
        ("[a](missing.md)", ["page.md: missing.md"]),
        ("[a](there.md#no-such)", ["page.md: there.md#no-such"]),
        ("[a](#no-such)", ["page.md: #no-such"]),
        ("![picture](missing.png)", ["page.md: missing.png"]),
        ("[a]\n\n[a]: missing.md\n", ["page.md: missing.md"]),
    ],
)
def test_a_broken_link_would_be_noticed(tmp_path: Path, text: str, broken: list[str]) -> None:
    """The check bites, and only where it should."""
    (tmp_path / "there.md").write_text("# Its `heading` 2\n")
    page = tmp_path / "page.md"
    page.write_text(text)

    assert broken_links(page) == broken


@pytest.mark.parametrize(
    ("block", "right"),
    [
        ("make up && make test  # both\n", True),
        ("make bench AREA=gateway\n", True),
        ("make nonsense\n", False),
        ("make test NONSENSE=1\n", False),
        (".venv/bin/shieldwall up --mode observe \\\n  --upstream a=https://example.org\n", True),
        ("K=v shieldwall keys create ann --role viewer\n", True),
        ('echo "a; shieldwall nonsense" | shieldwall inspect --json -\n', True),
        ("shieldwall --help\n", True),
        ("shieldwall nonsense\n", False),
        ("true; shieldwall up --no-such\n", False),
        ("shieldwall up --mode maybe\n", False),
        ("shieldwall config\n", False),
        ("$ shieldwall doctor\nshieldwall nonsense is what it printed\n", True),
    ],
)
def test_a_wrong_command_would_be_noticed(capsys: pytest.CaptureFixture[str], *, block: str, right: bool) -> None:
    """The check bites, and only where it should."""
    wrong = [each for words in commands(block) if (each := wrong_command(words))]

    capsys.readouterr()
    assert (wrong == []) is right
