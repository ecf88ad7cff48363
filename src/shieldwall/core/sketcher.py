# SPDX-License-Identifier: Apache-2.0
"""Chooses who makes sketches: the fast one where numba is installed, else the plain one. Both give the same bits."""

from shieldwall.core.sketch import Key, PlainSketcher, Sketcher

__all__ = ["make_sketcher"]


def make_sketcher(key: Key, common: bytes = b"") -> Sketcher:
    """The fastest sketcher that is installed. The first one loads numba, which takes seconds.

    Args:
        key: What `derive_key` returned.
        common: Fingerprints to subtract, 8 bytes each, little-endian.
    """
    try:
        from shieldwall.core.sketch_kernels import FastSketcher
    except ImportError:
        return PlainSketcher(key, common)
    return FastSketcher(key, common)
