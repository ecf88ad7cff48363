# SPDX-License-Identifier: Apache-2.0
"""Implementations of core's ports. `local` is the default: this process and its files, no server."""

from shieldwall.adapters.local import BusShare, MemoryBus

__all__ = ["BusShare", "MemoryBus"]
