# SPDX-License-Identifier: Apache-2.0
"""How soon a proxy answers after its start, what memory it needs, and what a client that reads nothing makes it hold.

Each round starts the proxy twice with a fresh data directory: once for the time to its first completion and its
memory after load, once for stalled clients, so that heap left over from the load cannot hide what they take. Memory
is VmRSS of the process and its descendants. MB and KB are 10^6 and 10^3 bytes, the stricter reading.
"""

import argparse
from pathlib import Path
from typing import Final

import uvloop

from bench import report
from bench.gateway import peer, stage
from bench.gateway.load import bodies, run_load
from bench.gateway.stalled import Held, held_bytes, stalled_clients, wait_until_still

RESIDENT_MB: Final = report.Target(at_most=120)
FIRST_ANSWER_S: Final = report.Target(at_most=2)
HELD_KB: Final = report.Target(at_most=256)
_MB: Final = 1e6
_KB: Final = 1e3
_OURS: Final = "shieldwall"


def put_load(proxy: stage.Proxy, *, requests: int, streams: int, connections: int, seed: int) -> None:
    """Send requests, then streams."""
    for count, streamed in ((requests, False), (streams, True)):
        made = bodies(count, seed=seed, streamed=streamed)
        uvloop.run(run_load(proxy.port, made, key=proxy.key, connections=connections, streamed=streamed))


class Rounds:
    """What the rounds of one proxy measured."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._name = name
        self._options = options
        self.first_answer_s: list[float] = []
        self.start_cpu_s: list[float] = []
        self.idle_mb: list[float] = []
        self.loaded_mb: list[float] = []
        self.growth_kb: list[float] = []
        self.held: list[Held] = []
        self.came_to_rest = True

    def measure(self, work: Path, upstream_port: int, seed: int) -> None:
        """One round."""
        ours, options = self._name == _OURS, self._options
        with stage.start_proxy(self._name, upstream_port=upstream_port, work=work, program=options.shieldwall) as proxy:
            self.first_answer_s.append(proxy.first_answer_s)
            self.start_cpu_s.append(stage.cpu_seconds(proxy.pid))
            self.idle_mb.append(stage.resident_bytes(proxy.pid) / _MB)
            requests, streams = (options.requests, options.requests // 10) if ours else (100, 20)
            put_load(proxy, requests=requests, streams=streams, connections=16, seed=seed)
            self.loaded_mb.append(stage.resident_bytes(proxy.pid) / _MB)
        if not ours or not self.came_to_rest:
            # Streams that did not come to rest in one round will not in the next; each try takes the whole limit.
            return
        with stage.start_proxy(self._name, upstream_port=upstream_port, work=work, program=options.shieldwall) as proxy:
            self.first_answer_s.append(proxy.first_answer_s)
            # One at a time: every path has run once, but there is no spare heap of 16 connections at once.
            put_load(proxy, requests=50, streams=10, connections=1, seed=seed)
            before = stage.resident_bytes(proxy.pid)
            with stalled_clients(options.stalled, port=proxy.port, key=proxy.key) as ports:
                self.came_to_rest &= wait_until_still(
                    upstream_port, options.stalled, resident=lambda: stage.resident_bytes(proxy.pid)
                )
                after = stage.resident_bytes(proxy.pid)
                self.held.append(held_bytes(ports, proxy_port=proxy.port, upstream_port=upstream_port))
            self.growth_kb.append((after - before) / options.stalled / _KB)

    def figures(self) -> list[report.Figure]:
        """The figures of all rounds."""
        ours = self._name == _OURS
        figures = [
            report.Figure(
                f"{self._name}: start to first answer", "s", self.first_answer_s, FIRST_ANSWER_S if ours else None
            ),
            report.Figure(f"{self._name}: CPU time of the start", "s", self.start_cpu_s),
            report.Figure(f"{self._name}: resident after the first answer", "MB", self.idle_mb),
            report.Figure(f"{self._name}: resident after load", "MB", self.loaded_mb, RESIDENT_MB if ours else None),
        ]
        if not self.held:
            return figures
        still = self.came_to_rest
        note = (
            ""
            if still
            else "stalled streams still moved at the limit: without end, or slowly; values are of that moment"
        )
        in_proxy = [held.in_proxy / _KB for held in self.held]
        in_kernel = [held.in_kernel_for_proxy / _KB for held in self.held]
        sent = [held.sent / _KB for held in self.held]
        return [
            *figures,
            report.Figure(f"{self._name}: stalled client, resident growth", "KB", self.growth_kb, HELD_KB, note, still),
            report.Figure(
                f"{self._name}: stalled client, stream bytes in the proxy", "KB", in_proxy, HELD_KB, note, still
            ),
            report.Figure(f"{self._name}: stalled client, in the kernel's socket queues", "KB", in_kernel),
            report.Figure(f"{self._name}: stalled client, sent by the upstream", "KB", sent),
        ]


def run(options: argparse.Namespace) -> report.Report:
    """Start what is needed, measure, end it."""
    stage.pin()
    found = {name: Rounds(name, options) for name in options.proxies}
    with stage.workspace() as work, stage.upstream(work) as port:
        for turn in range(options.rounds):
            for name, rounds in found.items():
                # The peer takes half a minute to start and has no target here: once is enough to know its size.
                if name == _OURS or turn == 0:
                    rounds.measure(work, port, seed=turn)
    figures = [figure for rounds in found.values() for figure in rounds.figures()]
    return report.report("memory", figures, {"litellm": peer.VERSION} if "litellm" in found else {})


def main(argv: list[str] | None = None) -> int:
    """Measure start and memory and print them."""
    parser = stage.arguments("memory", __doc__)
    parser.add_argument("--requests", type=int, default=3000, help="requests of the load; a tenth as many streams")
    parser.add_argument("--stalled", type=int, default=50, help="clients that read nothing (default: 50)")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
