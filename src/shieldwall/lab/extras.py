# SPDX-License-Identifier: Apache-2.0
"""What to type when something the range needs is not installed.

Numbers, tables and plots come from large libraries that a gateway has no use for: they are the extra `lab`.
"""

from shieldwall.core.errors import MissingExtra

__all__ = ["missing"]


def missing(what: str, error: ImportError, extra: str = "lab") -> MissingExtra:
    """The error for something that could not be imported: `what` is what it was needed for, `extra` what brings it."""
    name = (error.name or "a library").partition(".")[0]
    return MissingExtra(f"{what} needs {name}, which is not installed", hint=f"pip install 'shieldwall[{extra}]'")
