# SPDX-License-Identifier: Apache-2.0
"""What was decided cannot be unsaid: the journal, where every decision becomes durable."""

from shieldwall.ledger.journal import Journal, Settings

__all__ = ["Journal", "Settings"]
