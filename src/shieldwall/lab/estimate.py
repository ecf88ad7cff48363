# SPDX-License-Identifier: Apache-2.0
"""A figure is never alone: it comes with its interval, or with the reason why there is none."""

import msgspec

__all__ = ["Estimate", "unknown"]


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Rows it was computed from; for a share, those it is a share of."""
    note: str = ""
    """Why there is no value, or what to beware of."""


def unknown(note: str, n: int = 0) -> Estimate:
    """A figure that cannot be had, and why."""
    return Estimate(None, n=n, note=note)
