# SPDX-License-Identifier: Apache-2.0
"""One file per parser: `fuzz(data)` raises when its property breaks, `SEEDS` are inputs that reach deep.

`python -m tests.fuzz SECONDS` runs them all; a test runs each on its seeds.
"""
