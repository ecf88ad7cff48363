# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as a JSON lines suite: every line is a row or a `Rejected` with its place, and nothing is raised.

What is said of a rejected row never repeats its text; what a result file, a worker or an own table says is read alike.
"""

import contextlib
import io
import tempfile
from pathlib import Path

from shieldwall.core.errors import ConfigError, InvalidInput
from shieldwall.core.event import Surface
from shieldwall.lab.result import decode
from shieldwall.lab.sources import load_table
from shieldwall.lab.suite import Label, Rejected, Row, read_lines
from shieldwall.lab.worker import read_answer

_MARK = "7f3a9c2e"

SEEDS: list[bytes] = [
    b"",
    b'{"text": "a", "label": "benign"}\n{"text": "b", "label": "injection", "surface": "tool_output"}\n',
    b'{"text": "' + _MARK.encode() + b'", "label": "odd", "group": "g"}\nnonsense\n\n[]\n{"text": 1}',
    b'{"text": "\\ud800", "label": "benign"}\n{"text": "\xff"}\n{"label": "harmful", "text": "", "language": null}',
    b'{"score": 0.5, "flagged": true, "cpu_us": 3, "version": "1"}\n{"failure": "odd"}\n{"score": NaN}',
    b'{"format": "shieldwall.lab.report", "v": 1, "machine": {}, "versions": {}, "results": [], "missing": []}',
    b"""[[source]]
repository = "https://example.org/a/b"
commit = "0123456789ab"
licence = "MIT"
split = "train"
label = "benign"
files = ["*"]
kind = "text"
""",
    b"[" * 3_000,
]


def fuzz(data: bytes) -> None:
    """Raises when a property breaks."""
    lines = 0
    for each in read_lines(io.BytesIO(data), "s.jsonl"):
        lines += 1
        if isinstance(each, Rejected):
            assert each.place.startswith("s.jsonl:")
            assert _MARK not in each.reason
            assert each.reason.isprintable()
        else:
            assert isinstance(each, Row)
            assert isinstance(each.label, Label)
            assert isinstance(each.surface, Surface)
            assert each.group.isprintable()
            assert each.source.isprintable()
    assert lines <= data.count(b"\n") + 1
    for line in data.split(b"\n"):
        judged, names = read_answer(line)
        assert judged.failure or 0.0 <= judged.score <= 1.0
        assert all(word.isprintable() for word in names.values())
    with contextlib.suppress(InvalidInput):
        decode(data, "r.json")
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(ConfigError):
            load_table(Path(file.name))
