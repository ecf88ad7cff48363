# SPDX-License-Identifier: Apache-2.0
"""What a proxy adds to the time one client waits, beside what the disk itself needs to make a record durable.

One client sends the same kind of request directly and through the proxy, in turn and in random order, and between them
writes and syncs a record in a zero-filled file on the proxy's disk: whatever disturbs the machine disturbs all three.
Added latency of a round is the difference of the medians. Against an instant upstream no record can hide behind the
model's work, so there the figure is what is added above one fdatasync; against 50 ms it is all that is added.

The proxy has a core of its own by default. Neither placement is neutral. Apart, only the proxied way has to wake
another core, which on a virtual machine showed as 0.1 to 0.9 ms for a plain relay. Together, a stream's upstream goes
on writing on the core that the proxy needs, which doubled the first token of a proxy that computes. `--placement`
chooses, and the report names it; answers in one piece differ little between the two.
"""

import argparse
import asyncio
import gc
import os
import random
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from bench import report
from bench.gateway import peer, stage
from bench.gateway.load import Client, LoadError, Sample, bodies, connect

ABOVE_SYNC_MS: Final = report.Target(at_most=1.0)
IN_ALL_MS: Final = report.Target(at_most=0.5)
_DELAY: Final = "delay_ms=50"
_RECORD: Final = bytes(1024)
"""About what two journal entries take."""
_FILE_BYTES: Final = 16 << 20
_LIMIT_S: Final = 10.0


class Disk:
    """The bare disk: a record written in place in a zero-filled file, then fdatasync."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "bare-disk", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(self._file, bytes(_FILE_BYTES))
        os.fsync(self._file)
        self._offset = 0

    def sync_ns(self) -> int:
        """Time to make one record durable, nanoseconds."""
        start = time.perf_counter_ns()
        os.pwrite(self._file, _RECORD, self._offset)
        os.fdatasync(self._file)
        self._offset = (self._offset + len(_RECORD)) % _FILE_BYTES
        return time.perf_counter_ns() - start

    def close(self) -> None:
        """Close the file; its directory goes with the run."""
        os.close(self._file)


class Way(NamedTuple):
    """One way to the upstream: a single connection and what it measured."""

    client: Client
    answers: "asyncio.Queue[Sample | LoadError]"

    async def ask(self, body: bytes, *, streamed: bool) -> Sample:
        """Send one request and wait for its answer."""
        self.client.send(body, streamed=streamed)
        try:
            outcome = await asyncio.wait_for(self.answers.get(), _LIMIT_S)
        except TimeoutError:
            raise LoadError(f"no answer in {_LIMIT_S:g} s") from None
        if isinstance(outcome, LoadError):
            raise outcome
        return outcome


class Round(NamedTuple):
    """Medians of one round, milliseconds."""

    direct_total: float
    direct_first: float
    added_total: float
    added_first: float
    sync: float


async def open_path(port: int, key: str) -> Way:
    """Connect to an endpoint."""
    answers: asyncio.Queue[Sample | LoadError] = asyncio.Queue()
    return Way(await connect(port, key=key, on_done=lambda _, outcome: answers.put_nowait(outcome)), answers)


async def measure_round(
    upstream_port: int, proxy: stage.Proxy, disk: Disk, *, count: int, streamed: bool, wish: str, seed: int
) -> Round:
    """Measure `count` triples of direct request, request through the proxy, and record on the bare disk."""
    direct, proxied = await open_path(upstream_port, ""), await open_path(proxy.port, proxy.key)
    chance = random.Random(seed)
    times: dict[str, list[Sample]] = {"direct": [], "proxied": []}
    syncs = []
    warm_up = min(10, count)
    steps = ["direct", "proxied", "disk"]
    try:
        for place, body in enumerate(bodies(count + warm_up, seed=seed, streamed=streamed, wish=wish)):
            chance.shuffle(steps)
            for step in steps:
                if step == "disk":
                    syncs.append(disk.sync_ns())
                else:
                    way = direct if step == "direct" else proxied
                    sample = await way.ask(body, streamed=streamed)
                    if place >= warm_up:
                        times[step].append(sample)
    finally:
        direct.client.close()
        proxied.client.close()
    total = {way: _median_ms([sample.total_ns for sample in samples]) for way, samples in times.items()}
    first = {way: _median_ms([sample.first_ns for sample in samples]) for way, samples in times.items()}
    return Round(
        direct_total=total["direct"],
        direct_first=first["direct"],
        added_total=total["proxied"] - total["direct"],
        added_first=first["proxied"] - first["direct"],
        sync=_median_ms(syncs[warm_up:]),
    )


def _median_ms(values: list[int]) -> float:
    return statistics.median(values) / 1e6


def measure(proxy: stage.Proxy, upstream_port: int, *, rounds: int, count: int, delayed: int) -> list[report.Figure]:
    """All figures of one proxy.

    Args:
        proxy: Running, in front of the upstream.
        upstream_port: For the direct requests.
        rounds: How often everything is repeated, kinds in turn.
        count: Triples per round and kind against the instant upstream.
        delayed: The same against 50 ms; 0 leaves it out.
    """
    kinds = [(streamed, "") for streamed in (False, True)]
    if delayed:
        kinds += [(streamed, _DELAY) for streamed in (False, True)]
    found: dict[tuple[bool, str], list[Round]] = {kind: [] for kind in kinds}
    disk = Disk(proxy.data)
    try:
        for turn in range(rounds):
            for place, (streamed, wish) in enumerate(kinds):
                one = measure_round(
                    upstream_port,
                    proxy,
                    disk,
                    count=delayed if wish else count,
                    streamed=streamed,
                    wish=wish,
                    seed=1000 * turn + place,
                )
                found[streamed, wish].append(uvloop.run(one))
    finally:
        disk.close()
    figures = _instant(proxy.name, found[False, ""], found[True, ""])
    if delayed:
        figures += _behind_work(proxy.name, found[False, _DELAY], found[True, _DELAY])
    return figures


def _instant(name: str, answers: list[Round], streams: list[Round]) -> list[report.Figure]:
    ours = name == "shieldwall"
    target, note = (ABOVE_SYNC_MS if ours else None), "added = p50 through the proxy - p50 direct, requests interleaved"
    where = "instant upstream"
    figures = [
        report.Figure(f"{name}: added to an answer, {where}", "ms", [one.added_total for one in answers], note=note),
        report.Figure(f"{name}: added to the first token, {where}", "ms", [one.added_first for one in streams]),
        report.Figure(f"{name}: added to a whole stream, {where}", "ms", [one.added_total for one in streams]),
    ]
    if ours:
        above = [one.added_total - one.sync for one in answers]
        above_first = [one.added_first - one.sync for one in streams]
        figures += [
            report.Figure(f"{name}: answer, above one fdatasync", "ms", above, target),
            report.Figure(f"{name}: first token, above one fdatasync", "ms", above_first, target),
            report.Figure("bare disk: write in place + fdatasync, p50", "ms", [one.sync for one in answers + streams]),
            report.Figure("direct: answer, p50", "ms", [one.direct_total for one in answers]),
            report.Figure("direct: first token, p50", "ms", [one.direct_first for one in streams]),
        ]
    return figures


def _behind_work(name: str, answers: list[Round], streams: list[Round]) -> list[report.Figure]:
    target = IN_ALL_MS if name == "shieldwall" else None
    where = "50 ms upstream"
    return [
        report.Figure(f"{name}: added to an answer, {where}", "ms", [one.added_total for one in answers], target),
        report.Figure(f"{name}: added to the first token, {where}", "ms", [one.added_first for one in streams], target),
        report.Figure(f"{name}: added to a whole stream, {where}", "ms", [one.added_total for one in streams]),
        report.Figure(f"bare disk beside it ({where}), p50", "ms", [one.sync for one in answers + streams]),
    ]


def run(options: argparse.Namespace) -> report.Report:
    """Start what is needed, measure, end it."""
    client_core, proxy_core = stage.cores()
    shared_core = proxy_core if options.placement == "together" else client_core
    stage.pin(shared_core)
    # A collection in the client would be counted as the proxy's time.
    gc.disable()
    figures, more = [], {}
    # libuv counts whole milliseconds, which is more than what is looked for here: the double runs on asyncio's loop.
    with stage.workspace() as work, stage.upstream(work, loop="asyncio", core=shared_core) as port:
        for name in options.proxies:
            with stage.start_proxy(name, upstream_port=port, work=work, program=options.shieldwall) as proxy:
                # The peer takes tens of times as long and needs no fine figure.
                share = 1 if name == "shieldwall" else 10
                delayed = options.delayed if name == "shieldwall" else 0
                count = max(20, options.count // share)
                figures += measure(proxy, port, rounds=options.rounds, count=count, delayed=delayed)
            if name == "litellm":
                more["litellm"] = peer.VERSION
    result = report.report("latency", figures, more)
    result.machine["placement"] = options.placement
    return result


def main(argv: list[str] | None = None) -> int:
    """Measure added latency and print it."""
    parser = stage.arguments("latency", __doc__)
    parser.add_argument("--count", type=int, default=250, help="triples per round and kind, instant upstream")
    parser.add_argument(
        "--placement",
        choices=["together", "apart"],
        default="apart",
        help="the proxy on a core of its own, or on one core with client and upstream (default: apart)",
    )
    parser.add_argument("--delayed", type=int, default=60, help="triples per round and kind, 50 ms upstream")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
