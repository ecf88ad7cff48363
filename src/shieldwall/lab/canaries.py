# SPDX-License-Identifier: Apache-2.0
"""Builds the fingerprints that ship with the package: what is common in harmless text, and the canaries.

Reads the harmless rows of the corpora whose licence is stated; writes numbers, no text. The same corpora give the same
files. `python -m shieldwall.lab.canaries CORPORA OUT` writes `common.bin`, `canaries.bin` and `SKETCHES.md` to OUT.
"""

import hashlib
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from shieldwall.core.fingerprint_file import Canary, encode_canaries, encode_common
from shieldwall.core.sketch import PIECE, SHINGLE

__all__ = ["Built", "build", "main"]

COMMON_GROUPS: Final = 24
"""A shingle is common when this many groups of harmless texts hold it. Chosen on train, by false matches and size."""
CANARIES: Final = 12_000
SCALE: Final = 8
"""One fingerprint in so many is kept, the smallest ones."""
LEAST_KEPT: Final = 16
MOST_KEPT: Final = 48
LEAST_DIFFERENT: Final = 24
"""Fingerprints a text needs to be a canary: with fewer it cannot be hit."""
MOST_LETTERS: Final = 2_048
"""Of a longer text the beginning is taken; of one that an attack resembles, all."""
ENDANGERED: Final = 0.2
"""Share of an attack's shingles that a harmless text holds when it is the first to be chosen."""

Array: TypeAlias = Any


class Row(NamedTuple):
    """A harmless text of the corpora."""

    text: str
    source: str
    group: str
    licence: str


class Built(NamedTuple):
    """What a run made."""

    common: bytes
    canaries: bytes
    sheet: str


def read_rows(corpora: Path, label: str) -> list[Row]:
    """Rows of train with a label whose licence is stated, in the order of their digests."""
    import pyarrow.parquet

    columns = ["text", "source", "group", "licence"]
    table = pyarrow.parquet.read_table(corpora / "train" / f"{label}.parquet", columns=columns)
    rows = (Row(*values) for values in zip(*(table[name].to_pylist() for name in columns), strict=True))
    return sorted((row for row in rows if not row.licence.startswith("none-stated")), key=_order)


def _order(row: Row) -> bytes:
    return hashlib.blake2b(row.text.encode(errors="surrogatepass"), digest_size=16).digest()


def find_common(prints: list[Array], groups: list[str], least: int = COMMON_GROUPS) -> Array:
    """Fingerprints that stand in texts of at least so many groups, ascending."""
    import numpy as np

    members: dict[str, list[Array]] = {}
    for found, group in zip(prints, groups, strict=True):
        members.setdefault(group, []).append(found)
    once = [np.unique(np.concatenate(found)) for found in members.values()]
    values, counts = np.unique(np.concatenate(once), return_counts=True)
    return values[(counts >= least) & (values != 0)]


def find_endangered(prints: list[Array], attacks: list[Array]) -> set[int]:
    """Numbers of the harmless texts that hold `ENDANGERED` of the shingles of an attack, or of a piece of one."""
    import numpy as np

    parts = [
        np.unique(part[part != 0])
        for found in attacks
        for part in np.array_split(found, max(1, -(-len(found) // PIECE)))
    ]
    parts = [part for part in parts if len(part) >= LEAST_DIFFERENT]
    sizes = np.array([len(part) for part in parts])
    values, owners = np.concatenate(parts), np.repeat(np.arange(len(parts)), sizes)
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    found = set()
    for number, print_ in enumerate(prints):
        left, right = (np.searchsorted(values, print_, side) for side in ("left", "right"))
        spans = [owners[first:last] for first, last in zip(left.tolist(), right.tolist(), strict=True) if first < last]
        if spans:
            hit, counts = np.unique(np.concatenate(spans), return_counts=True)
            if (counts >= ENDANGERED * sizes[hit]).any():
                found.add(number)
    return found


def choose(rows: list[Row], sizes: list[int], endangered: set[int], count: int = CANARIES) -> list[int]:
    """Numbers of the rows that become canaries.

    First those that attacks resemble; then one of a group, of each source in proportion to its square root.
    """
    able: dict[str, list[int]] = {}
    chosen = [number for number in sorted(endangered) if sizes[number] >= LEAST_DIFFERENT][:count]
    taken = {rows[number].group for number in chosen}
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        if size >= LEAST_DIFFERENT and row.group not in taken:
            taken.add(row.group)
            able.setdefault(row.source, []).append(number)
    shares = {source: math.sqrt(len(numbers)) for source, numbers in able.items()}
    # Small sources first: what they cannot give is shared out among those that are left.
    for place, source in enumerate(sorted(able, key=lambda source: (len(able[source]), source))):
        left = sum(sorted(shares.values())[place:])
        quota = round((count - len(chosen)) * shares[source] / left)
        chosen += able[source][:quota]
    return sorted(chosen)


def build(corpora: Path) -> Built:
    """Build both files and their datasheet.

    Raises:
        OSError: The corpora are not there.
    """
    import numpy as np

    from shieldwall.core.sketch_kernels import public_fingerprints

    rows = read_rows(corpora, "benign")
    prints = [public_fingerprints(row.text) for row in rows]
    common = find_common(prints, [row.group for row in rows])
    prints = [_without(found, common) for found in prints]
    attacks = [
        _without(public_fingerprints(row.text), common)
        for label in ("injection", "jailbreak", "extraction")
        for row in read_rows(corpora, label)
        # Composed rows hold harmless carriers: they would make every carrier look endangered.
        if not row.source.startswith("compose")
    ]
    endangered = find_endangered([np.unique(found) for found in prints], attacks)
    rare = [
        np.unique(found[found != 0] if number in endangered else found[:MOST_LETTERS][found[:MOST_LETTERS] != 0])
        for number, found in enumerate(prints)
    ]
    chosen = choose(rows, [len(values) for values in rare], endangered)
    canaries = []
    for number in chosen:
        values = rare[number]
        most = MOST_KEPT * 4 if number in endangered else MOST_KEPT
        kept = min(max(len(values) // SCALE, LEAST_KEPT), most)
        canaries.append(Canary(len(values), values[:kept].astype("<u8").tobytes()))
    whole = encode_canaries(canaries)
    sources = Counter((rows[number].source, rows[number].licence) for number in chosen)
    facts = {"rows": len(rows), "common": len(common), "canaries": len(chosen), "bytes": len(whole)}
    facts["endangered"] = sum(number in endangered for number in chosen)
    return Built(encode_common(common.tolist()), whole, _sheet(facts, sources))


def _without(found: Array, common: Array) -> Array:
    """Fingerprints in order, zero where they are common."""
    import numpy as np

    at = np.minimum(np.searchsorted(common, found), len(common) - 1)
    return np.where(common[at] == found, np.uint64(0), found)


def _sheet(facts: dict[str, int], sources: Counter[tuple[str, str]]) -> str:
    table = "\n".join(f"| {source} | {licence} | {number} |" for (source, licence), number in sorted(sources.items()))
    return f"""# Fingerprints that ship with the package

Written by `python -m shieldwall.lab.canaries CORPORA OUT`; do not edit. Format: `shieldwall.core.fingerprint_file`.

- `common.bin`: {facts["common"]} shingles of {SHINGLE} letters
  that at least {COMMON_GROUPS} groups of harmless texts hold.
- `canaries.bin`: {facts["canaries"]} harmless texts, each by its smallest fingerprints;
  {facts["bytes"]} bytes.

**Made from** {facts["rows"]} harmless rows of train whose licence is stated.
Rows without a stated licence, attacks, dev and evaluation sets are in neither file.
Of each canary 1 fingerprint in {SCALE} is kept, at least {LEAST_KEPT} and at
most {MOST_KEPT}, of its first {MOST_LETTERS} letters, after what is common was subtracted.

**{facts["endangered"]} of the canaries** were chosen first, because they hold a fifth of the shingles of some attack of
train (whose licence is stated too): a signature may well hit these. Of each up to {4 * MOST_KEPT} fingerprints of all
its letters are kept. The rest is drawn from all sources. False matches on harmless train are therefore fewer than on
texts that nobody has seen.

**Holds** public 64-bit fingerprints, no text. A fingerprint of {SHINGLE} letters can be found again by trying letters,
so the files tell which phrases are common and scattered fragments of public texts; nothing in them is private.

**For** subtracting stock phrases before texts are compared, and for refusing signatures that would fire on harmless
text. **Not for** proving that a text is harmless: most harmless texts resemble no canary.

**Bias**: mostly English; instructions, help pages, code, logs and encyclopaedic prose; a source counts by the square
root of its size.

| canaries from | licence of the source | texts |
| --- | --- | ---: |
{table}
"""


def main(argv: list[str] | None = None) -> int:
    """Build the files into a directory."""
    corpora, out = (sys.argv[1:] if argv is None else argv)[:2]
    built = build(Path(corpora))
    for name, data in (
        ("common.bin", built.common),
        ("canaries.bin", built.canaries),
        ("SKETCHES.md", built.sheet.encode()),
    ):
        (Path(out) / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
