# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the gateway: what a request costs, how long it waits, how much memory it holds.

The order of `BENCHMARKS` is the order of a whole run: cheap ones first, so that a broken gateway is noticed early.
"""

BENCHMARKS = ("detect", "memory", "latency", "throughput")
"""Modules of this package with a `main(argv) -> int`; each runs alone with `python -m bench.gateway.NAME`."""
