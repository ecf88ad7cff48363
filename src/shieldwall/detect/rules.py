# SPDX-License-Identifier: Apache-2.0
"""The first tier: finds known wordings of attacks by rules, in one pass over every form of the text.

`RuleDetector` runs a rule set over events. Whole texts and streams take the same path, `FieldJudge`; before it stands a
filter for whole events that can only say "nothing here": all segments in which nothing is encoded are joined with NUL,
which no pattern crosses, and searched at once.
"""

from collections.abc import Sequence

from shieldwall.core.errors import SelfTestFailed
from shieldwall.core.event import Event, Segment, Surface
from shieldwall.core.text import Reader
from shieldwall.core.verdict import Finding
from shieldwall.detect.field import FieldJudge
from shieldwall.detect.hold import Scope
from shieldwall.detect.matcher import Matcher
from shieldwall.detect.phrase import SKELETON
from shieldwall.detect.program import DELEET, Program
from shieldwall.detect.rule import Rule
from shieldwall.detect.rulefile import load_rules

__all__ = ["AT_ONCE", "SELFTEST_TEXT", "RuleDetector"]

AT_ONCE = 256 << 10
"""Characters that are judged while others wait: about three milliseconds."""
_BEFORE = 512
"""Characters that cost as much as to begin a segment does."""

SELFTEST_TEXT = "SHIELDWALL-TEST-ATTACK-7f3a9c"
"""Harmless text that the rule `shieldwall.injection.selftest.1` finds on every surface: try the whole path with it."""


class RuleDetector:
    """Implements `core.ports.Detector` with rules. Immutable; safe to share between threads."""

    def __init__(self, rules: Sequence[Rule] | None = None, matcher_class: type[Matcher] | None = None) -> None:
        """Compile the rules.

        Args:
            rules: What `load_rules` returned; None for the rules that come with the package.
            matcher_class: The engine; None for the fastest that is installed.

        Raises:
            RuleError: A rule cannot be used; the message names it and the field.
        """
        self._program = Program(load_rules() if rules is None else rules, matcher_class or _fastest())
        self._scopes = {surface: Scope(self._program, surface) for surface in Surface}

    @property
    def version(self) -> str:
        """Short digest of the rule set, as findings carry it."""
        return self._program.version

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order they were given."""
        return self._program.rules

    def judge(self, event: Event) -> list[Finding]:
        """See `Detector.judge`: findings in order of segment, then of span."""
        suspects = self._suspects(event.segments)
        return [finding for segment in suspects for finding in self._judge_segment(segment)]

    def quick(self, event: Event) -> list[Finding] | None:
        """See `Detector.quick`: what is small is judged at once."""
        if sum(_BEFORE + len(segment.text) for segment in event.segments) > AT_ONCE:
            return None
        return self.judge(event)

    def stream(self, event: Event) -> FieldJudge:
        """See `Detector.stream`. The event's first segment says which field it is."""
        segment = event.segments[0]
        return FieldJudge(self._program, self._scopes[segment.surface], segment.path)

    def self_test(self) -> None:
        """Find one known-bad example of each category, and nothing in a harmless one.

        Raises:
            SelfTestFailed: A rule misses its own example, or the set finds an attack in plain words.
        """
        tested = set()
        for rule in self._program.rules:
            if rule.category in tested:
                continue
            tested.add(rule.category)
            segment = Segment(text=rule.match[0], surface=min(rule.surfaces))
            if all(finding.rule != rule.id for finding in self._judge_segment(segment)):
                raise SelfTestFailed(f"rule {rule.id} does not find its own example")
        for segment in self._suspects((Segment(text="Good morning, what is the weather like today?"),)):
            if self._judge_segment(segment):
                raise SelfTestFailed("the rules find an attack in a harmless sentence")

    def _suspects(self, segments: Sequence[Segment]) -> Sequence[Segment]:
        """The segments that may hold something: all of them, or those in which something is encoded."""
        texts = [segment.text.encode("utf-8", "surrogatepass") for segment in segments]
        if self._is_clear(texts):
            return ()
        plain: list[bytes] = []
        coded: list[Segment] = []
        for segment, data in zip(segments, texts, strict=True):
            reader = Reader()
            pieces = reader.feed(data)
            pieces += reader.end()
            if reader.overflow or any(piece.view for piece in pieces):
                coded.append(segment)
            else:
                plain += [piece.data for piece in pieces]
                plain.append(b"\0")
        return segments if plain and self._may_match(b"\0" + b"".join(plain), self._program.main) else coded

    def _is_clear(self, texts: Sequence[bytes]) -> bool:
        """Whether a look at the bytes says it all: nothing is encoded, and no rule on any surface occurs."""
        joined = b"\0".join((b"", *texts, b""))
        if not joined.isascii() or joined.count(b"\0") != len(texts) + 1:
            return False
        if b"%" in joined or b"&" in joined or b"\\" in joined:
            return False
        return not self._may_match(joined, self._program.clear)

    def _may_match(self, text: bytes, matcher: Matcher) -> bool:
        """Whether the matcher reports anything, or a rule in leet."""
        window = text.translate(SKELETON)
        if matcher.which(window):
            return True
        letters = window.translate(DELEET)
        return letters != window and bool(self._program.leet.which(letters))

    def _judge_segment(self, segment: Segment) -> list[Finding]:
        judge = FieldJudge(self._program, self._scopes[segment.surface], segment.path, hold=False)
        findings = judge.feed(segment.text.encode(errors="surrogatepass"))[1] + judge.end()
        return sorted(findings, key=lambda finding: (finding.span or (0, 0), finding.rule))


def _fastest() -> type[Matcher]:
    """Hyperscan where it is installed, else RE2. Imported late: loading Hyperscan costs some milliseconds."""
    try:
        from shieldwall.detect.hyperscan_matcher import HyperscanMatcher
    except ImportError:
        from shieldwall.detect.re2_matcher import Re2Matcher

        return Re2Matcher
    return HyperscanMatcher
