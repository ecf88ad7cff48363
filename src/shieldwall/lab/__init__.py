# SPDX-License-Identifier: Apache-2.0
"""The range and the school: measures any defence the same way, and trains our own detectors."""

from shieldwall.lab.commands import add
from shieldwall.lab.defence import Defence, Description, Item, Judged
from shieldwall.lab.suite import Label, Row, Suite

__all__ = ["Defence", "Description", "Item", "Judged", "Label", "Row", "Suite", "add"]
