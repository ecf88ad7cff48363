# SPDX-License-Identifier: Apache-2.0
"""Bytes as a file of operating points: refused with ConfigError, or points with which a cascade judges."""

import math
import tempfile
from functools import cache
from pathlib import Path

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Direction, Event, Segment, Surface, utc
from shieldwall.core.verdict import Findings
from shieldwall.detect import Cascade, Encoder, FastTier, RuleDetector, load_points
from shieldwall.detect.rulefile import parse_rules
from tests.detect.corpus import toml
from tests.detect.weights import BURNING, HINTED, POINTS, SHOUTED, encoder_folder, telling_tier

__all__ = ["SEEDS", "fuzz"]

_TEXT = f"the garden {HINTED}, {SHOUTED} and {BURNING}"

SEEDS: list[bytes] = [
    msgspec.json.encode(POINTS),
    b'{"ask": {"default": -1.5, "prompt": 0.25}, "alone": {"default": 2, "document": 1e9}, "found": 0.01}',
    b'{"ask": {"default": -1e308}, "alone": {"default": 1e308}, "encoder": -1e308, "fast": 1e308, "base": 1e308}',
    b'{"ask": {"default": 0}, "alone": {"default": 0}, "harmful": 1e-300}',
    b'{"ask": {"default": 0}, "alone": {"default": 0}, "harmful": 0.9999999999999999}',
    b'{"ask": {}, "alone": {}}',
    b"[]",
    b"",
]


@cache
def _tiers() -> tuple[RuleDetector, FastTier, Encoder]:
    with tempfile.TemporaryDirectory() as held:
        return RuleDetector(parse_rules(toml())), telling_tier(), Encoder(encoder_folder(Path(held)))


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        try:
            points = load_points(Path(file.name))
        except ConfigError:
            return
    rules, fast, encoder = _tiers()
    for surface in Surface:
        assert math.isfinite(points.asks(surface))
        assert math.isfinite(points.acts(surface))
    assert 0.0 <= points.joint(3.0, -4.0) <= 1.0
    for third in (None, encoder):
        cascade = Cascade(rules, fast, third, points)
        for direction, surface in ((Direction.REQUEST, Surface.DOCUMENT), (Direction.RESPONSE, Surface.RESPONSE)):
            event = Event(id="", time=utc(0), direction=direction, segments=(Segment(_TEXT, surface=surface),))
            found = cascade.judge(event)
            assert isinstance(found, Findings)
            assert 0.0 <= found.score <= 1.0
            assert all(0.0 <= finding.score <= 1.0 for finding in found)
            assert cascade.quick(event) in (None, found)
