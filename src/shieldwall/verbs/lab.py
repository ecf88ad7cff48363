# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab`: the range and the school. What the verbs are stands in `lab/commands.py`."""

from shieldwall.lab import add

__all__ = ["add"]
