# SPDX-License-Identifier: Apache-2.0
"""What the learned tiers tell apart."""

from typing import Final

__all__ = ["CLASSES"]

CLASSES: Final = ("benign", "injection", "jailbreak", "extraction", "harmful")
"""What a text is taken for, in the order of a tier's outputs; the first is none of the others."""
