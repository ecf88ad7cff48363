# SPDX-License-Identifier: Apache-2.0
"""Both matchers keep one contract, and Hyperscan's survives being dropped in any order."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldwall.detect.hyperscan_matcher import HyperscanMatcher
from shieldwall.detect.matcher import Hit, Matcher, scan
from shieldwall.detect.phrase import SKELETON, Compiled, compile_phrase, parse
from shieldwall.detect.re2_matcher import Re2Matcher
from tests.detect.corpus import HARMLESS, shipped

PHRASES = (
    "open ..2 (gate | door) now",
    "now open",
    "a b [c] d",
    '"<|x" ~5 "|>"',
    "打开 ..2 门",
    "gate*",
    "no-one can't",
)
ALPHABET = st.sampled_from(
    [
        *" .,!-_'\n",
        "open",
        "gate",
        "door",
        "now",
        "the",
        "a",
        "b",
        "c",
        "d",
        "<|x",
        "|>",
        "打开",
        "门",
        "no",
        "one",
        "can't",
        "s",
    ]
)
TEXTS = st.lists(ALPHABET, max_size=25).map("".join)


def skeleton(text: str) -> bytes:
    """A text as matchers see it, borders included."""
    return b"\0" + text.encode().translate(SKELETON) + b"\0"


class MatcherContract:
    """What every matcher promises."""

    matcher: ClassVar[type[Matcher]]
    patterns: ClassVar[list[Compiled]] = [compile_phrase(parse(phrase)) for phrase in PHRASES]

    def test_an_empty_list_finds_nothing(self) -> None:
        """A surface without rules is no error."""
        matcher = self.matcher([])

        assert list(matcher.which(skeleton(HARMLESS))) == []

    def test_hits_carry_pattern_start_and_end(self) -> None:
        """The border bytes before and after belong to the hit."""
        matcher = self.matcher(self.patterns)

        assert scan(matcher, skeleton("so open the gate now!")) == [Hit(5, 12, 17), Hit(0, 3, 22)]

    def test_a_pattern_is_reported_at_each_place(self) -> None:
        """Hits of one pattern do not overlap, and none is skipped."""
        matcher = self.matcher(self.patterns)

        hits = [hit for hit in scan(matcher, skeleton("open gate now open gate now")) if hit.pattern == 0]

        assert [(hit.start, hit.end) for hit in hits] == [(0, 15), (14, 29)]

    def test_the_earliest_end_wins(self) -> None:
        """A longer match that begins at the same place is not reported: it would depend on what follows."""
        matcher = self.matcher(self.patterns)

        hits = [hit for hit in scan(matcher, skeleton("open door now now")) if hit.pattern == 0]

        assert [hit.end for hit in hits] == [15]

    def test_nul_parts_texts(self) -> None:
        """A match never goes across a NUL."""
        matcher = self.matcher(self.patterns)

        assert list(matcher.which(skeleton("open the\0gate now"))) == [5]

    def test_threads_do_not_disturb_each_other(self) -> None:
        """Each thread gets the answer for its own text."""
        matcher = self.matcher(self.patterns)
        texts = [skeleton(f"{'x ' * n}open the gate now {'y ' * n}") for n in range(40)]
        expected = [scan(matcher, text) for text in texts]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda text: scan(matcher, text), texts * 5))

        assert found == expected * 5


class TestHyperscan(MatcherContract):
    """The fast one."""

    matcher = HyperscanMatcher


class TestRe2(MatcherContract):
    """The portable one."""

    matcher = Re2Matcher


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from([HyperscanMatcher, Re2Matcher]))
def test_which_and_first_agree_with_pythons_re(text: str, engine: type[Matcher]) -> None:
    """An engine of another make, asked pattern by pattern, finds the same patterns and the same first end."""
    patterns, data = MatcherContract.patterns, skeleton(text)
    matcher = _built(engine)
    expected = {index: _earliest(pattern, data) for index, pattern in enumerate(patterns)}

    found = {index: matcher.first(index, data) for index in matcher.which(data)}

    assert {index: hit.end for index, hit in found.items() if hit} == {
        i: end for i, end in expected.items() if end is not None
    }


@cache
def _built(engine: type[Matcher]) -> Matcher:
    return engine(MatcherContract.patterns)


def _earliest(pattern: Compiled, data: bytes) -> int | None:
    """By definition: the smallest end of any match, tried end by end."""
    compiled = re.compile(pattern.regex.encode())
    return next(
        (end for end in range(len(data) + 1) if any(compiled.fullmatch(data, start, end) for start in range(end))), None
    )


def test_every_rule_example_gives_the_same_hits_in_both_engines() -> None:
    """All shipped rules over all their examples."""
    patterns = [compile_phrase(parse(rule.pattern)) for rule in shipped()]
    first, second = HyperscanMatcher(patterns), Re2Matcher(patterns)
    data = [skeleton(text) for rule in shipped() for text in (*rule.match, *rule.no_match)]

    assert [scan(first, text) for text in data] == [scan(second, text) for text in data]
    assert sum(bool(scan(first, text)) for text in data) > len(shipped())


@pytest.mark.parametrize("order", ["matcher first", "judge first"])
def test_dropping_everything_in_any_order_does_not_crash(order: str) -> None:
    """The binding is known to crash on dropped handlers and shared scratches; a process of its own tries."""
    code = f"""
import gc, random, threading
from shieldwall.detect.hyperscan_matcher import HyperscanMatcher
from shieldwall.detect.phrase import compile_phrase, parse
order = {order!r}
def work():
    for _ in range(15):
        matcher = HyperscanMatcher([compile_phrase(parse("open gate"))])
        first = matcher.first
        assert list(matcher.which(bytes(1) + b"open gate" + bytes(1))) == [0]
        thread = threading.Thread(target=lambda m=matcher: m.which(b"xx open gate yy" * 50))
        thread.start()
        if order == "matcher first":
            del matcher
            gc.collect()
            thread.join()
        else:
            thread.join()
            del first, thread
            gc.collect()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
gc.collect()
print("alive")
"""

    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]
