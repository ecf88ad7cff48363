# SPDX-License-Identifier: Apache-2.0
"""What the verbs of the range share on the command line: numbers in bounds, and where words go."""

import argparse
import sys
from collections.abc import Callable

from shieldwall.core.errors import Error

__all__ = ["at_least", "number_in", "progress", "put", "say_error"]


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number that is no smaller."""

    def whole(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return value

    return whole


def number_in(low: float, high: float) -> Callable[[str], float]:
    """Reads a number from the first to the second, both included."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return value

    return number


def put(line: str) -> None:
    """A line of what was asked for, to standard output."""
    sys.stdout.write(f"{line}\n")


def progress(words: str) -> None:
    """One line on a terminal, in place of the last; nothing where standard error is no terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{words}")
        sys.stderr.flush()


def say_error(error: Error) -> None:
    """An error as the command line tells it, for a part that failed while the others go on."""
    sys.stderr.write(f"shieldwall: error: {error}\n")
    if error.hint:
        sys.stderr.write(f"shieldwall: hint: {error.hint}\n")
