# SPDX-License-Identifier: Apache-2.0
"""Defences and trainers that tests name as `python:tests.lab.functions:…`."""

from collections.abc import Callable, Sequence
from typing import Any


def word(texts: list[str]) -> list[float]:
    """Finds every attack of the small suite, and nothing else."""
    return [0.9 if text.startswith("Attack") else 0.1 for text in texts]


def decides(text: str) -> bool:
    """Takes one text and only says yes and no."""
    return text.startswith("Attack")


def unannotated(text):  # noqa: ANN001, ANN201
    """Takes one text and does not say so."""
    return 0.9 if text.startswith("Attack") else 0.1


def fails_on_attacks(texts: list[str]) -> list[float]:
    """Breaks where it matters."""
    if any(text.startswith("Attack") for text in texts):
        raise RuntimeError(texts[0])
    return [0.1] * len(texts)


def fails_always_after_the_first() -> Callable[[list[str]], list[float]]:
    """A function that answers twice and then never again."""
    asked = 0

    def judge(texts: list[str]) -> list[float]:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise KeyError(texts[0])
        return [0.5] * len(texts)

    return judge


hopeless = fails_always_after_the_first()


def beyond(texts: list[str]) -> list[float]:
    """Gives what is no probability for attacks."""
    return [7.5 if text.startswith("Attack") else 0.5 for text in texts]


def nothing(_: list[str]) -> None:
    """No defence at all."""


def train(rows: Sequence[Any]) -> Callable[[list[str]], list[float]]:
    """Knows the first word of every attack it has seen."""
    known = {row.text.split()[0] for row in rows if row.label.value not in {"benign", "harmful"}}
    return lambda texts: [0.9 if text.split()[0] in known else 0.1 for text in texts]
