# SPDX-License-Identifier: Apache-2.0
"""What normalisation and rules cost, without a socket: 2 KB of prose at once, and a stream event by event.

The texts hold what prose holds (capitals, numbers, quotes, a link, a line of code) and nothing that any rule finds;
each is judged once per round, so nothing learned from it helps. Time is CPU time of the thread: others on the machine
lengthen the wait, not the figure. Objects are built before the clock starts; the gateway builds them anyway.
"""

import argparse
import gc
import random
import statistics
import time
from typing import Final

from bench import report
from bench.gateway import stage
from bench.gateway.load import WORDS
from shieldwall.core.event import Direction, Event, Role, Segment, Surface, Trust, event_id, utc
from shieldwall.core.ports import Detector

JUDGE_US: Final = report.Target(at_most=25)
EVENT_US: Final = report.Target(at_most=5)
_TEXT_BYTES: Final = 2048
_EVENT_BYTES: Final = 20
_EVENTS: Final = 50
_TIME_NS: Final = 1_760_000_000_000_000_000
_ACCENTS: Final = str.maketrans({"a": "ä", "e": "é", "o": "ø"})


def prose(count: int, *, seed: int, length: int = _TEXT_BYTES) -> list[str]:
    """Different harmless texts of exactly `length` ASCII characters."""
    chance = random.Random(seed)
    texts = []
    for _ in range(count):
        parts: list[str] = []
        while sum(map(len, parts)) < length:
            sentence = " ".join(chance.choices(WORDS, k=chance.randint(6, 14))).capitalize()
            aside = chance.choice(
                (
                    "",
                    ", about 1,250 of them",
                    " (see https://example.org/notes?page=7)",
                    ': "not before noon," she said',
                    "; total = price * 3 + 0.5",
                    " - 14 May 2024",
                )
            )
            parts.append(f"{sentence}{aside}.{chance.choice((' ', ' ', ' ', chr(10)))}")
        texts.append("".join(parts)[:length])
    return texts


def event(text: str, surface: Surface, direction: Direction) -> Event:
    """An event with one segment."""
    segment = Segment(text, Role.USER, surface, Trust.USER, "/messages/0/content")
    return Event(id=event_id(_TIME_NS, bytes(10)), time=utc(_TIME_NS), direction=direction, segments=(segment,))


def judge_us(detector: Detector, texts: list[str]) -> float:
    """Median CPU time of `judge` for one text, microseconds.

    Raises:
        BenchError: Something was found, so another path was measured than the one meant.
    """
    events = [event(text, Surface.PROMPT, Direction.REQUEST) for text in texts]
    times = []
    found = 0
    for one in events:
        start = time.thread_time_ns()
        findings = detector.judge(one)
        times.append(time.thread_time_ns() - start)
        found += len(findings)
    if found:
        raise report.BenchError(
            f"rules found {found} things in harmless texts; the figure is for text without findings"
        )
    return statistics.median(times) / 1000


def stream_us(detector: Detector, texts: list[str]) -> tuple[float, float]:
    """Median CPU time per event (50 to a stream, 20 bytes each), microseconds: `feed` alone, and all of the judging.

    Raises:
        BenchError: Something was found, or text was held back at the end.
    """
    field = event("", Surface.RESPONSE, Direction.RESPONSE)
    feeds, wholes = [], []
    for text in texts:
        data = text.encode()
        pieces = [data[place : place + _EVENT_BYTES] for place in range(0, _EVENTS * _EVENT_BYTES, _EVENT_BYTES)]
        start = time.thread_time_ns()
        judge = detector.stream(field)
        fed = time.thread_time_ns()
        found = [judge.feed(piece)[1] for piece in pieces]
        end = time.thread_time_ns()
        found.append(judge.end())
        wholes.append(time.thread_time_ns() - start)
        feeds.append(end - fed)
        if any(found):
            raise report.BenchError("rules found something in a harmless stream")
    return statistics.median(feeds) / 1000 / _EVENTS, statistics.median(wholes) / 1000 / _EVENTS


def clock_us() -> float:
    """What reading the clock twice costs, microseconds; it is part of every figure here."""
    return statistics.median(-time.thread_time_ns() + time.thread_time_ns() for _ in range(2000)) / 1000


def make_detector() -> tuple[Detector, int]:
    """The shipped rules on the default matcher, and how many they are."""
    try:
        from shieldwall.detect import RuleDetector, load_rules
    except ImportError as error:
        raise report.BenchError(f"the detector cannot be imported: {error}") from None
    rules = load_rules(None)
    return RuleDetector(rules), len(rules)


def run(options: argparse.Namespace) -> report.Report:
    """Measure in this process."""
    stage.pin()
    detector, rules = make_detector()
    judged, accented, fed, whole, clock = [], [], [], [], []
    for text in prose(200, seed=0):
        detector.judge(event(text, Surface.PROMPT, Direction.REQUEST))
    gc.disable()
    for turn in range(max(options.rounds, 3)):
        texts = prose(options.texts, seed=1 + turn)
        judged.append(judge_us(detector, texts))
        accented.append(judge_us(detector, [text.translate(_ACCENTS) for text in texts]))
        one_feed, one_event = stream_us(detector, texts)
        fed.append(one_feed)
        whole.append(one_event)
        clock.append(clock_us())
        gc.collect()
    figures = [
        report.Figure("rules and normalisation, 2 KB of ASCII", "us", judged, JUDGE_US),
        report.Figure("rules and normalisation, 2 K letters with accents", "us", accented),
        report.Figure("rules and normalisation, per event: feed", "us", fed, EVENT_US),
        report.Figure("the same with making and ending the judge", "us", whole, EVENT_US, "50 events of 20 bytes"),
        report.Figure("rules loaded", "", [float(rules)]),
        report.Figure("clock, part of each figure above", "us", clock),
    ]
    return report.report("detect", figures, report.versions(("hyperscan", "google-re2")))


def main(argv: list[str] | None = None) -> int:
    """Measure the rules and print what they cost."""
    parser = stage.arguments("detect", __doc__)
    parser.add_argument("--texts", type=int, default=1000, help="texts and streams per round (default: 1000)")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
