# SPDX-License-Identifier: Apache-2.0
"""What the learned tiers cost: time per text, how often the encoder is asked, memory, and how soon they are ready.

Ordinary traffic are benign rows of train from the sources that the fast tier did not learn from. The peer is a
classifier of the size of DeBERTa-v3-small (6 layers, width 768, inner 3072; plain attention, which is cheaper than its
own) with random weights, in 32 bits on onnxruntime with one thread, as such models are published; it reads the first
512 word pieces of the same texts. Times are CPU time of the thread, one core.
"""

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from bench import report
from bench.detect.options import arguments
from bench.detect.sketches import CORPORA
from bench.gateway import stage
from shieldwall.core.errors import Error
from shieldwall.core.event import Event, Segment, utc
from shieldwall.core.text import fold
from shieldwall.detect import Cascade, Encoder, FastTier, RuleDetector, make_cascade
from shieldwall.lab import Row, Suite

FAST_US: Final = report.Target(at_most=30)
ENCODER_MS: Final = report.Target(at_most=10)
CASCADE_US: Final = report.Target(at_most=150)
ASKED: Final = report.Target(at_most=0.008)
CHEAPER: Final = report.Target(at_least=100)
RESIDENT_MB: Final = report.Target(at_most=350)
READY_S: Final = report.Target(at_most=6)
GROWTH_MB: Final = report.Target(at_most=16)
_TEXTS: Final = 4000
_PEER_TEXTS: Final = 40
_LONG_RUN: Final = 1_000_000
_READY: Final = """
import time
start = time.monotonic()
from shieldwall.core.event import Event, Segment, utc
from shieldwall.detect import RuleDetector, make_cascade
cascade = make_cascade(RuleDetector())
cascade.self_test()
ready = time.monotonic() - start
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(ready, int(lines["VmRSS"].split()[0]) / 1024)
"""


def traffic() -> list[Row]:
    """Ordinary texts. Raises BenchError where the corpora are not there."""
    # The list of its sources stands with training, which needs more than measuring does.
    from shieldwall.lab.settle import TRAFFIC

    try:
        rows = [row for row in Suite.find("train", CORPORA).rows() if isinstance(row, Row)]
    except Error as error:
        raise report.BenchError(f"no cost on ordinary traffic can be measured: {error}") from None
    calm = [row for row in rows if row.source in TRAFFIC and row.label == "benign"]
    return random.Random(1).sample(calm, min(_TEXTS, len(calm)))


def _spent(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def fast_us(tier: FastTier, rows: Sequence[Row]) -> list[float]:
    """Microseconds for 1 KB, per round."""
    joined = fold("\n".join(row.text for row in rows)).encode("utf-8", "replace")
    texts = [joined[at << 10 : (at + 1) << 10] for at in range(200)]
    for text in texts:
        tier.windows(text, "prompt")
    return [_spent(lambda: [tier.windows(text, "prompt") for text in texts]) / len(texts) * 1e6 for _ in range(9)]


def encoder_ms(encoder: Encoder) -> list[float]:
    """Milliseconds for 128 word pieces, per round."""
    text = " ".join(["word"] * 400)
    encoder.raw([text], ["prompt"])
    return [_spent(lambda: encoder.raw([text], ["prompt"])) * 1e3 for _ in range(40)]


def cascade_us(cascade: Cascade, rows: Sequence[Row]) -> tuple[float, float]:
    """Mean microseconds for a text, all tiers, and the share of texts about which the encoder was asked."""
    events = [Event(id="", time=utc(0), segments=(Segment(row.text, surface=row.surface),)) for row in rows]
    for event in events[:200]:
        cascade.judge(event)
    asked = 0
    start = time.thread_time()
    for event in events:
        asked += any(tier.name == "encoder" for tier in cascade.judge(event).tiers)
    return (time.thread_time() - start) / len(events) * 1e6, asked / len(events)


def peer_us(rows: Sequence[Row], encoder: Encoder) -> float:
    """Mean microseconds for a text: a classifier of the size of DeBERTa-v3-small. Raises BenchError without onnx."""
    try:
        import onnxruntime

        from shieldwall.lab.onnx_graph import build
    except ImportError as error:
        raise report.BenchError(f"the peer cannot be built: {error.name} is not installed") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(build(_weights(), 12).SerializeToString(), options)
    spent = 0.0
    for row in rows[:_PEER_TEXTS]:
        start = time.thread_time()
        ids = np.array([[101, *encoder.pieces(row.text)[:510], 102]], np.int64)
        session.run(None, {"ids": ids, "attention": np.ones_like(ids)})
        spent += time.thread_time() - start
    return spent / min(len(rows), _PEER_TEXTS) * 1e6


def _weights() -> dict[str, Any]:
    """Random weights of that size."""
    chance = np.random.default_rng(1)

    def some(*shape: int) -> Any:
        return (chance.standard_normal(shape) * 0.02).astype(np.float32)

    width, inner = 768, 3072
    weights = {"words.weight": some(30_522, width), "places.weight": some(512, width), "kind": some(width)}
    shapes = {"qkv": (3 * width, width), "out": (width, width), "up": (inner, width), "down": (width, inner)}
    for layer in range(6):
        for name, shape in shapes.items():
            weights[f"layers.{layer}.{name}.weight"] = some(*shape)
            weights[f"layers.{layer}.{name}.bias"] = some(shape[0])
    norms = ["norm", *(f"layers.{layer}.norm{number}" for layer in range(6) for number in (1, 2))]
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(width, np.float32), some(width)
    return weights | {"head.weight": some(2, 2 * width), "head.bias": some(2)}


def growth_mb(cascade: Cascade, rows: Sequence[Row], count: int) -> float:
    """MiB by which this process grew over many short texts."""
    events = [Event(id="", time=utc(0), segments=(Segment(row.text[:200], surface=row.surface),)) for row in rows]
    turns = itertools.cycle(events)
    for _ in range(20_000):
        cascade.quick(next(turns))
    before = stage.resident_bytes(os.getpid())
    for _ in range(count):
        cascade.quick(next(turns))
    return (stage.resident_bytes(os.getpid()) - before) / (1 << 20)


def run(options: argparse.Namespace) -> report.Report:
    """Measure in this process, pinned to one core; readiness in fresh ones."""
    rows = traffic()
    stage.pin()
    ready = [_ready() for _ in range(3)]
    rules, fast, encoder = RuleDetector(), FastTier(), Encoder()
    cascade = make_cascade(rules)
    rounds = [cascade_us(cascade, rows) for _ in range(3)]
    peer = peer_us(rows, encoder)
    mean = statistics.median(us for us, _ in rounds)
    figures = [
        report.Figure("fast tier, 1 KB", "us", fast_us(fast, rows), FAST_US),
        report.Figure("encoder, 128 word pieces", "ms", encoder_ms(encoder), ENCODER_MS),
        report.Figure("cascade, mean of ordinary texts", "us", [us for us, _ in rounds], CASCADE_US),
        report.Figure("ordinary texts the encoder is asked about", "share", [rounds[0][1]], ASKED),
        report.Figure("peer of the size of DeBERTa-v3-small, same texts", "us", [peer]),
        report.Figure("peer / cascade", "times", [peer / mean], CHEAPER),
        report.Figure("resident with learned tiers", "MB", [mb for _, mb in ready], RESIDENT_MB),
        report.Figure("ready and self-tested", "s", [seconds for seconds, _ in ready], READY_S),
        report.Figure(
            f"growth over {options.texts:,} texts", "MB", [growth_mb(cascade, rows, options.texts)], GROWTH_MB
        ),
    ]
    return report.report("tiers", figures, report.versions(("numba", "onnxruntime", "tokenizers")), "detect")


def _ready() -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", _READY], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise report.BenchError(f"a cascade cannot be made: {done.stderr.strip().splitlines()[-1:]}")
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments("tiers", __doc__)
    parser.add_argument("--texts", type=int, default=_LONG_RUN, help="of the long run (default: 1,000,000)")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
