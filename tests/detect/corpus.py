# SPDX-License-Identifier: Apache-2.0
"""What several detection tests share: small rule sets, hostile and harmless texts, and ways to cut them."""

import base64
import codecs
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from hypothesis import strategies as st

from shieldwall.core.event import Event, Segment, Surface, utc
from shieldwall.core.verdict import Finding
from shieldwall.detect import FieldJudge, Rule, RuleDetector, load_rules

ZERO_WIDTH = "\u200b"
HARMLESS = (
    "The quick brown fox jumps over the lazy dog, and nobody minds. "
    "Please ignore the previous email; the meeting is at 3 pm in room 101! "
    'def add(a: int, b: int) -> int:\n    return a + b  # {"k": [1, 2, 3]}\n'
)


def toml(**changes: str) -> bytes:
    """A rule file with one valid rule; a keyword replaces a field's TOML text, the text `-` leaves the field out."""
    fields = {
        "id": '"test.injection.sample.1"',
        "category": '"injection"',
        "technique": '"AML.T0051.000"',
        "surfaces": '["*"]',
        "languages": '["en"]',
        "score": "0.9",
        "pattern": '"open ..2 (gate | door) now"',
        "match": '["open the gate now", "Open door now!", "Hi. Open the old door now or else."]',
        "no_match": '["open the book", "the door is open"]',
    }
    fields.update(changes)
    return ("[[rule]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value != "-")).encode()


@cache
def detector() -> RuleDetector:
    """The shipped rules, compiled once."""
    return RuleDetector()


@cache
def shipped() -> tuple[Rule, ...]:
    """The shipped rules."""
    return tuple(load_rules())


def event(*texts: str, surface: Surface = Surface.RESPONSE) -> Event:
    """An event with one segment per text."""
    segments = tuple(Segment(text=text, surface=surface, path=f"/{number}") for number, text in enumerate(texts))
    return Event(id="", time=utc(0), segments=segments)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at the places (taken modulo the length)."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)] or [b""]


def run(judge: FieldJudge, pieces: Iterable[bytes]) -> tuple[list[Finding], list[tuple[int, int, list[Finding]]]]:
    """All findings, and for each piece: bytes fed so far, bytes released, what was found."""
    findings: list[Finding] = []
    steps = []
    fed = 0
    for piece in pieces:
        fed += len(piece)
        release, found = judge.feed(piece)
        findings += found
        steps.append((fed, release, list(found)))
    return findings + judge.end(), steps


def key(findings: Iterable[Finding]) -> set[tuple[str, tuple[int, int] | None]]:
    """What is compared between cuts: rule and span."""
    return {(finding.rule, finding.span) for finding in findings}


def leet(text: str) -> str:
    """Vowels as digits."""
    return text.translate(str.maketrans("aeioAEIO", "43104310"))


def spaced(text: str) -> str:
    """Every letter on its own."""
    return "   ".join(" ".join(word) for word in text.replace(".", "").split())


def disguises(text: str) -> list[str]:
    """The text as it is and in disguises that ASCII allows."""
    return [
        text,
        text.upper(),
        leet(text),
        spaced(text),
        codecs.encode(text, "rot13"),
        base64.b64encode(text.encode()).decode(),
        ZERO_WIDTH.join(text),
        text.replace(" ", "%20"),
    ]


def texts() -> st.SearchStrategy[str]:
    """Texts put together from rule examples, their disguises and noise."""
    examples = [example for rule in shipped() for example in rule.match]
    part = st.one_of(
        st.sampled_from(examples),
        st.sampled_from(examples).flatmap(lambda text: st.sampled_from(disguises(text))),
        st.sampled_from(
            [
                HARMLESS,
                " ",
                "\n",
                "shieldwall test attacks ",
                "my system ",
                "i am now ",
                "1 2 3 a b c ",
                "é漢字\U0001f600",
                ZERO_WIDTH,
            ]
        ),
        st.text(max_size=12),
    )
    return st.lists(part, max_size=6).map("".join)
