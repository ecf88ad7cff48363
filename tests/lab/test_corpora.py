# SPDX-License-Identifier: Apache-2.0
"""Corpora are checked for what crosses, and rebuilt from commits: here from repositories made on the spot."""

import json
import subprocess
from pathlib import Path

import pytest

from shieldwall.core.errors import ConfigError, InvalidInput, UpstreamError
from shieldwall.lab import Label, Row, Suite
from shieldwall.lab.corpora import build, check
from shieldwall.lab.sources import Source, load_table, texts, wanted
from tests.lab.conftest import Write, row

FILES = {
    "data/full.csv": "prompt,type\nFree the penguin,jailbreak\nFeed the penguin,benign\nFree the penguin,jailbreak\n",
    "data/deep.json": json.dumps({"items": [{"name": "one", "turns": ["Hello", "Goodbye", 7]}, {"name": "two"}]}),
    "data/lines.jsonl": '{"q": "When?"}\n\n{"q": "Where?"}\n',
    "docs/page.md": "# Title\n\nA paragraph.\n",
    "docs/secret/page.md": "left out",
}


def source(kind: str = "text", **more: object) -> Source:
    values: dict[str, object] = {
        "repository": "https://example.org/ann/things",
        "commit": "0123456789ab",
        "licence": "MIT",
        "split": "train",
        "label": Label.BENIGN,
        "files": ("*",),
        "kind": kind,
    }
    return Source(**(values | more))  # type: ignore[arg-type]


def read(one: Source, name: str) -> list[str]:
    return [text for text, _ in texts(one, name, FILES[name].encode())]


def test_each_kind_of_file_is_read() -> None:
    """Columns with a condition, paths through JSON with every member, lines, and pages."""
    assert read(source("csv", text="prompt", where={"type": "benign"}), "data/full.csv") == ["Feed the penguin"]
    assert read(source("json", text="items/*/turns/*"), "data/deep.json") == ["Hello", "Goodbye"]
    assert read(source("json", text="items/0/turns/1"), "data/deep.json") == ["Goodbye"]
    assert read(source("json", text="items/9/turns"), "data/deep.json") == []
    assert read(source("jsonl", text="q"), "data/lines.jsonl") == ["When?", "Where?"]
    assert read(source(), "docs/page.md") == ["# Title\n\nA paragraph."]


def test_a_long_page_is_cut_at_paragraphs() -> None:
    """Pieces of at most some thousand characters, all of the text, groups of their own."""
    page = "\n\n".join(f"{number} " + "word " * 300 for number in range(10))

    found = list(texts(source(), "p.md", page.encode()))

    assert len(found) == 4
    assert all(len(text) <= 6_000 for text, _ in found)
    assert len({group for _, group in found}) == 4


def test_rows_of_a_file_may_be_one_group() -> None:
    """Where a file holds variants of one thing."""
    one = source("jsonl", text="q", group="file")

    assert len({group for _, group in texts(one, "a", FILES["data/lines.jsonl"].encode())}) == 1


@pytest.mark.parametrize(
    ("kind", "raw"), [("json", b"{"), ("json", b"[" * 9000), ("csv", b"a,b\n1,2\n"), ("text", b"\xff"), ("jsonl", b"x")]
)
def test_a_file_that_is_something_else_is_an_error(kind: str, raw: bytes) -> None:
    """With the source and the file, never with what it holds."""
    with pytest.raises(InvalidInput, match="ann/things: f cannot be read"):
        list(texts(source(kind, text="q"), "f", raw))


def test_files_are_chosen_by_patterns() -> None:
    """And left out by others."""
    one = source(files=("docs/*.md", "data/deep.json"), exclude=("*secret*",))

    assert wanted(one, list(FILES)) == ["data/deep.json", "docs/page.md"]


def test_the_packaged_table_is_sound() -> None:
    """Ten repositories with licence and commit, of every kind but composed ones."""
    table = load_table()

    assert len({each.repository for each in table}) == 10
    assert all(each.licence and not each.licence.startswith("none") for each in table)
    assert {each.split for each in table} == {"train", "dev/ood"}
    train = {each.name for each in table if each.split == "train"}
    assert not train & {each.name for each in table if each.split == "dev/ood"}


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[[source]]\n",
        '[[source]]\nrepository = "x"\nodd = 1\n',
        "source = 3\n",
        "\udcff",
        "a = " + "[" * 3000,
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    """By its file."""
    path = tmp_path / "own.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ConfigError, match=r"own\.toml"):
        load_table(path)


@pytest.mark.parametrize("address", ["--upload-pack=x", "ext::sh -c true"])
def test_an_address_is_no_option_and_no_command(tmp_path: Path, address: str) -> None:
    """git would run what stands in such an address."""
    path = tmp_path / "own.toml"
    lines = ["[[source]]", f'repository = "{address}"', 'commit = "0123456789ab"', 'licence = "MIT"', 'split = "train"']
    path.write_text("\n".join([*lines, 'label = "benign"', 'files = ["*"]', 'kind = "text"']))

    with pytest.raises(ConfigError, match="not an address"):
        load_table(path)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """A repository with one commit that holds the files, and a later one that does not; its path and the commit."""
    place = tmp_path / "ann" / "things"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "docs" / "link.md").symlink_to("/etc/hostname")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, "-C", str(place), *arguments], capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q", "-b", "main")
    git("config", "uploadpack.allowFilter", "true")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    git("rm", "-q", "-r", "data")
    git("commit", "-q", "-m", "two")
    return str(place), commit[:12]


def table(repository: tuple[str, str]) -> list[Source]:
    place, commit = repository
    common = {"repository": f"file://{place}", "commit": commit}
    return [
        source(
            "csv", text="prompt", where={"type": "jailbreak"}, label=Label.JAILBREAK, files=("data/*.csv",), **common
        ),
        source("json", text="items/*/turns/*", files=("data/deep.json",), split="dev/ood", **common),
        source(files=("docs/page.md", "docs/link.md"), **common),
    ]


def test_a_public_set_is_built_from_a_commit(repository: tuple[str, str], tmp_path: Path) -> None:
    """Suites that can be read at once; a text that occurs twice is there once; the same commit gives the same bytes."""
    built = build(tmp_path / "one", table(repository))
    build(tmp_path / "two", table(repository))

    rows = [each for each in Suite.find("train", tmp_path / "one").rows() if isinstance(each, Row)]
    assert built.files == {"dev/ood/benign.jsonl.gz": 2, "train/benign.jsonl.gz": 2, "train/jailbreak.jsonl.gz": 1}
    assert built.duplicates == 1
    assert {each.source for each in rows} == {"ann/things"}
    assert {each.licence for each in rows} == {"MIT"}
    for name in built.files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_link_in_a_repository_leads_nowhere(repository: tuple[str, str], tmp_path: Path) -> None:
    """It is read as the words it is, not as the file it points to."""
    build(tmp_path / "one", table(repository))

    texts_ = {each.text for each in Suite.find("train", tmp_path / "one").rows() if isinstance(each, Row)}
    assert "/etc/hostname" in texts_


def test_what_cannot_be_reached_is_named_and_nothing_is_written(repository: tuple[str, str], tmp_path: Path) -> None:
    """A repository that is not there, a commit it does not have."""
    gone = source(repository=f"file://{tmp_path}/bob/gone")
    unknown = source(repository=f"file://{repository[0]}", commit="0" * 12)

    with pytest.raises(UpstreamError, match=r"bob/gone.*ann/things") as caught:
        build(tmp_path / "out", [gone, unknown, *table(repository)])

    assert "network" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    """Building into it would mix two sets."""
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigError, match="not empty"):
        build(tmp_path, [])


def test_groups_that_cross_splits_are_found(tmp_path: Path, write: Write) -> None:
    """And sound splits are called so."""
    write("train/a.jsonl", row("a", group="g1"), row("b", group="g2"))
    write("dev/ood.jsonl", row("c", "injection", group="g2", source="elsewhere"))
    found = check(tmp_path)
    write("dev/ood.jsonl", row("c", "injection", group="g3", source="elsewhere"))

    assert [(each.one, each.other, each.groups) for each in found.crossings] == [("dev/ood", "train", 1)]
    assert not found.is_sound
    assert found.missing == ["dev/indist"]
    assert check(tmp_path).is_sound
    assert found.splits[1].labels["benign"] == 2


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    """Rather than a clean bill."""
    with pytest.raises(ConfigError):
        check(tmp_path)
