# SPDX-License-Identifier: Apache-2.0
"""The corpora as a whole: are they what they were, do their parts keep apart, and can they be made anew?

`check` reads every split and says what is in it. `build` makes a public set from named commits of public repositories:
it clones them with git and therefore needs a network; what it cannot reach is named, and nothing is made up in its
place. Its files are reproducible: the same commits give the same bytes.
"""

import gzip
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from shieldwall.core.errors import ConfigError, Error, UpstreamError
from shieldwall.lab.sources import Source, texts, wanted
from shieldwall.lab.suite import NAMED, Label, Rejected, Suite, digest_of

__all__ = ["Built", "Check", "Crossing", "Split", "build", "check", "describe"]

_CLONE_S = 900
_GIT_S = 300
_MAX_FILE_BYTES = 64 << 20


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """What one split holds."""

    name: str
    digest: str
    rows: int
    rejected: int
    groups: int
    labels: dict[str, int]
    surfaces: dict[str, int]
    sources: int
    languages: int


class Crossing(msgspec.Struct, frozen=True):
    """Two splits that share something they should not."""

    one: str
    other: str
    groups: int
    """Groups with rows in both: neighbours of what was trained on."""
    sources: int
    """Sources with rows in both; expected for `dev/indist` only."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a corpora directory."""

    splits: list[Split]
    crossings: list[Crossing]
    missing: list[str]
    """Splits that are not there."""

    @property
    def is_sound(self) -> bool:
        """Whether no group crosses, and every row could be read."""
        return not any(each.groups for each in self.crossings) and not any(each.rejected for each in self.splits)


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What `build` made."""

    files: dict[str, int]
    """Rows by file, relative to the directory."""
    sources: dict[str, int]
    """Rows by source."""
    duplicates: int
    """Texts left out because they occur earlier."""


def check(corpora: Path | None) -> Check:
    """Read every named split that is there.

    Raises:
        ConfigError: No split is there.
    """
    splits, missing = list[Split](), list[str]()
    groups, sources = dict[str, set[str]](), dict[str, set[str]]()
    for name in NAMED[1:]:
        try:
            suite = Suite.find(name, corpora)
        except ConfigError:
            missing.append(name)
            continue
        split, groups[name], sources[name] = _read(suite)
        splits.append(split)
    if not splits:
        # Asking once more gives the error that says where it was looked for.
        Suite.find(missing[0], corpora)
    names = list(groups)
    crossings = [
        Crossing(one, other, len(groups[one] & groups[other]), len(sources[one] & sources[other]))
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    ]
    return Check(splits=splits, crossings=crossings, missing=missing)


def _read(suite: Suite) -> tuple[Split, set[str], set[str]]:
    labels, surfaces = Counter[str](), Counter[str]()
    groups, sources, languages = set[str](), set[str](), set[str]()
    rejected = 0
    for row in suite.rows():
        if isinstance(row, Rejected):
            rejected += 1
            continue
        labels[row.label.value] += 1
        surfaces[row.surface.value] += 1
        groups.add(row.group)
        sources.add(row.source)
        languages.add(row.language)
    split = Split(
        name=suite.name,
        digest=digest_of(suite.digests()),
        rows=labels.total(),
        rejected=rejected,
        groups=len(groups),
        labels={label.value: labels[label.value] for label in Label},
        surfaces=dict(surfaces.most_common()),
        sources=len(sources),
        languages=len(languages),
    )
    return split, groups, sources


def describe(found: Check) -> str:
    """A check in words, one split or pair of splits after the other."""
    lines = []
    for split in found.splits:
        size = f"{split.rows:,} rows, {split.groups:,} groups, {split.sources} sources, {split.languages} languages"
        lines += [
            f"{split.name}: {size}, SHA-256 {split.digest[:12]}",
            f"  labels    {', '.join(f'{name} {count:,}' for name, count in split.labels.items())}",
            f"  surfaces  {', '.join(f'{name} {count:,}' for name, count in split.surfaces.items())}",
        ]
        if split.rejected:
            lines.append(f"  unusable  {split.rejected:,} rows")
    lines += [
        f"{pair.one} and {pair.other}: {pair.groups:,} groups and {pair.sources} sources in common"
        for pair in found.crossings
    ]
    lines += [f"{name}: not there" for name in found.missing]
    return "\n".join(lines)


def build(directory: Path, table: Sequence[Source], tell: Callable[[str], None] = lambda _: None) -> Built:
    """Make the public set in a new directory.

    Args:
        directory: Where it goes; it must be empty or not there.
        table: What it is made from.
        tell: Told which source is being fetched.

    Raises:
        ConfigError: The directory is not empty, or git is not installed.
        UpstreamError: Sources could not be reached; the message names each of them, and nothing was written.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory.name} is not empty", hint="choose a new directory")
    rows: dict[str, list[bytes]] = {}
    sources, seen, failed = Counter[str](), set[str](), dict[str, str]()
    duplicates = 0
    with tempfile.TemporaryDirectory(prefix="shieldwall-corpora-") as scratch:
        clones: dict[tuple[str, str], Path] = {}
        for source in table:
            tell(f"{source.name} at {source.commit}")
            place = (source.repository, source.commit)
            if source.name in failed:
                continue
            try:
                if place not in clones:
                    clones[place] = _clone(source, Path(scratch) / str(len(clones)))
                for text, group in _texts_of(source, clones[place]):
                    if text in seen:
                        duplicates += 1
                        continue
                    seen.add(text)
                    sources[source.name] += 1
                    rows.setdefault(f"{source.split}/{source.label}.jsonl.gz", []).append(_line(source, text, group))
            except Error as error:
                failed[source.name] = str(error)
    if failed:
        words = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        raise UpstreamError(
            f"could not be rebuilt: {words}", hint="cloning needs git and a network; nothing was written"
        )
    for name, lines in sorted(rows.items()):
        _write(directory / name, lines)
    return Built(
        files={name: len(lines) for name, lines in sorted(rows.items())}, sources=dict(sources), duplicates=duplicates
    )


def _line(source: Source, text: str, group: str) -> bytes:
    row = {
        "text": text,
        "label": source.label,
        "surface": source.surface,
        "language": source.language,
        "source": source.name,
        "licence": source.licence,
        "group": group,
    }
    return msgspec.json.encode(row) + b"\n"


def _write(path: Path, lines: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a time and a name in its head a gzip file is a function of its content.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.writelines(lines)


def _texts_of(source: Source, clone: Path) -> list[tuple[str, str]]:
    listed = _git(clone, "ls-tree", "-r", "--name-only", "-z", source.commit).split(b"\0")
    paths = wanted(source, [path.decode(errors="replace") for path in listed if path])
    if not paths:
        raise ConfigError("its commit holds none of the files named")
    # One checkout fetches all blobs at once; the literal magic keeps `*` in a name from being a pattern.
    _git(clone, "--literal-pathspecs", "checkout", "-q", source.commit, "--", *paths)
    found: list[tuple[str, str]] = []
    for path in paths:
        with _open(clone, path) as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} is over {_MAX_FILE_BYTES} bytes")
        found += texts(source, path, raw)
    return found


def _open(clone: Path, path: str) -> IO[bytes]:
    file = clone / path
    # git writes no file outside its tree, and links as plain files; this says so where somebody changes that.
    if file.is_symlink() or not file.resolve().is_relative_to(clone.resolve()):
        raise ConfigError(f"{path} leads out of its repository")
    return file.open("rb")


def _clone(source: Source, place: Path) -> Path:
    _git(None, "clone", "-q", "--no-checkout", "--filter=blob:none", "--", source.repository, str(place))
    _git(place, "rev-parse", "--verify", "-q", f"{source.commit}^{{commit}}")
    return place


def _git(place: Path | None, *arguments: str) -> bytes:
    """Run git without hooks, links, prompts or the user's settings; gives its output."""
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false"]
    if place is not None:
        command += ["-C", str(place)]
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }
    limit = _CLONE_S if place is None else _GIT_S
    try:
        done = subprocess.run(  # noqa: S603  a list, never a shell
            [*command, *arguments],
            capture_output=True,
            env=environment,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ConfigError("git is not installed", hint="install git, or use corpora that are there already") from None
    except subprocess.TimeoutExpired:
        raise UpstreamError(f"git did not finish in {limit} s") from None
    if done.returncode:
        raise UpstreamError("it cannot be cloned" if place is None else f"git {arguments[0]} failed at its commit")
    return done.stdout
