# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: figures that a reader can reproduce with one command, `make bench AREA=…`."""
