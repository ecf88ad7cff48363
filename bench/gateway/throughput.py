# SPDX-License-Identifier: Apache-2.0
"""How many requests and streams a second of a proxy's CPU pays for, beside LiteLLM's proxy on the same machine.

Both proxies run at the same time and take the same load in turn, so a slow minute of the machine slows both. CPU time
is that of the proxy's processes and threads alone, with the kernel's work on their behalf; client and upstream are
not in it. A stream has 50 events. They come as fast as the upstream can write them, each in a write of its own, or
one every 2 ms as from a model: then a proxy is woken for each, which costs more.
"""

import argparse
import contextlib
import gc
from typing import Final, NamedTuple

import uvloop

from bench import report
from bench.gateway import peer, stage
from bench.gateway.load import LoadError, Summary, bodies, run_load
from bench.gateway.upstream import read_stats

_OURS: Final = "shieldwall"
_PEER: Final = "litellm"
_PEER_SHARE: Final = 30
"""The peer gets a thirtieth of the requests: still one to two seconds of its CPU time."""
_RUN_LIMIT_S: Final = 60.0


class Kind(NamedTuple):
    """One kind of load."""

    name: str
    streamed: bool
    wish: str
    requests: int
    """For the gateway, per round."""
    target: report.Target


class Cost(NamedTuple):
    """What one round of load cost."""

    per_cpu_second: float
    summary: Summary


def kinds(scale: float) -> list[Kind]:
    """The kinds of load, with so many requests times `scale`."""
    return [
        Kind("requests", streamed=False, wish="", requests=int(4000 * scale), target=report.Target(at_least=15)),
        Kind("streams", streamed=True, wish="", requests=int(800 * scale), target=report.Target(at_least=40)),
        Kind(
            "paced streams",
            streamed=True,
            wish="gap_ms=2",
            requests=int(480 * scale),
            target=report.Target(at_least=40),
        ),
    ]


def load(port: int, key: str, kind: Kind, *, requests: int, connections: int, seed: int) -> Summary:
    """Put one round of load on a port."""
    made = bodies(requests, seed=seed, streamed=kind.streamed, wish=kind.wish)
    return uvloop.run(
        run_load(port, made, key=key, connections=connections, streamed=kind.streamed, limit_s=_RUN_LIMIT_S)
    )


def cost(proxy: stage.Proxy, upstream_port: int, kind: Kind, *, requests: int, connections: int, seed: int) -> Cost:
    """Put load on a proxy and see what CPU time it took."""
    asked_before = read_stats(upstream_port).requests
    before = stage.cpu_seconds(proxy.pid)
    summary = load(proxy.port, proxy.key, kind, requests=requests, connections=connections, seed=seed)
    spent = stage.cpu_seconds(proxy.pid) - before
    # A cached answer costs a proxy little and proves nothing; a repeated request would cost it twice.
    if (asked := read_stats(upstream_port).requests - asked_before) != requests:
        raise LoadError(f"{requests} requests were sent to {proxy.name}, {asked} reached the upstream")
    return Cost(requests / max(spent, 0.01), summary)


def measure(
    proxies: list[stage.Proxy], upstream_port: int, *, rounds: int, connections: int, scale: float
) -> list[report.Figure]:
    """All figures: per proxy, and the ratio of the two round by round where both run."""
    figures: list[report.Figure] = []
    for kind in kinds(scale):
        found: dict[str, list[Cost]] = {proxy.name: [] for proxy in proxies}
        # A stream that waits 2 ms between events keeps a connection 125 ms: more of them fill the same seconds.
        width = connections * (4 if kind.wish else 1)
        for proxy in proxies:
            load(proxy.port, proxy.key, kind, requests=_share(proxy, kind.requests) // 5, connections=width, seed=99)
        for turn in range(rounds):
            # Whoever goes first meets another machine than whoever goes second; they change places.
            for proxy in proxies if turn % 2 == 0 else reversed(proxies):
                count = _share(proxy, kind.requests)
                found[proxy.name].append(cost(proxy, upstream_port, kind, requests=count, connections=width, seed=turn))
        direct = [load(upstream_port, "", kind, requests=kind.requests, connections=width, seed=98)]
        figures += _figures(kind, found, direct)
    return figures


def _share(proxy: stage.Proxy, requests: int) -> int:
    return max(20, requests if proxy.name == _OURS else requests // _PEER_SHARE)


def _figures(kind: Kind, found: dict[str, list[Cost]], direct: list[Summary]) -> list[report.Figure]:
    figures = []
    if _OURS in found and _PEER in found:
        ratios = [
            ours.per_cpu_second / peers.per_cpu_second for ours, peers in zip(found[_OURS], found[_PEER], strict=True)
        ]
        figures.append(report.Figure(f"{kind.name} per CPU second, ratio to {_PEER}", "x", ratios, kind.target))
    for name, costs in found.items():
        figures += [
            report.Figure(f"{name}: {kind.name} per CPU second", "1/s", [one.per_cpu_second for one in costs]),
            report.Figure(f"{name}: {kind.name} per second", "1/s", [one.summary.per_second for one in costs]),
            report.Figure(f"{name}: {kind.name}, p50", "ms", [one.summary.total_ms(0.5) for one in costs]),
            report.Figure(f"{name}: {kind.name}, p99", "ms", [one.summary.total_ms(0.99) for one in costs]),
        ]
        if kind.streamed:
            reads = [sum(s.reads for s in one.summary.samples) / len(one.summary.samples) for one in costs]
            figures.append(report.Figure(f"{name}: {kind.name}, reads by the client", "", reads))
    ceiling = [one.per_second for one in direct]
    note = "the ceiling: what client and upstream reach without a proxy, both on one core"
    figures.append(report.Figure(f"direct: {kind.name} per second", "1/s", ceiling, note=note))
    return figures


def run(options: argparse.Namespace) -> report.Report:
    """Start what is needed, measure, end it."""
    stage.pin()
    gc.disable()
    with contextlib.ExitStack() as ending:
        work = ending.enter_context(stage.workspace())
        port = ending.enter_context(stage.upstream(work))
        proxies = [
            ending.enter_context(stage.start_proxy(name, upstream_port=port, work=work, program=options.shieldwall))
            for name in options.proxies
        ]
        figures = measure(proxies, port, rounds=options.rounds, connections=options.connections, scale=options.scale)
    more = {_PEER: peer.VERSION} if _PEER in options.proxies else {}
    return report.report("throughput", figures, more)


def main(argv: list[str] | None = None) -> int:
    """Measure requests and streams per CPU second and print them."""
    parser = stage.arguments("throughput", __doc__)
    parser.add_argument("--connections", type=int, default=8, help="clients at once (default: 8; paced streams: x4)")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the requests (default: 1)")
    return stage.conclude(run, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
