# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of detection that learns: what it finds, what it finds wrongly, and what it costs."""

BENCHMARKS = ("rules", "sketches", "tiers", "quality")
"""Modules of this package with a `main(argv) -> int`; each runs alone with `python -m bench.detect.NAME`."""
