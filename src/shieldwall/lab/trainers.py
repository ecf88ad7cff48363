# SPDX-License-Identifier: Apache-2.0
"""Which trainers `shieldwall lab run --rotate` knows: names, and functions of your own."""

from collections.abc import Callable, Sequence

from shieldwall.core.errors import ConfigError
from shieldwall.lab.defence import Defence, Description, Item, Judged, read_judgement
from shieldwall.lab.extras import missing
from shieldwall.lab.function import find_function
from shieldwall.lab.suite import Row

__all__ = ["trainer", "trainers"]


def _fast() -> Callable[[Sequence[Row]], Defence]:
    try:
        from shieldwall.lab.fast_trainer import train_fast
    except ImportError as error:
        raise missing("training", error, "train") from None
    return train_fast


_TRAINERS: dict[str, Callable[[], Callable[[Sequence[Row]], Defence]]] = {"fast": _fast}
"""Trainers of ours by name, each made when it is asked for. A new one adds its line here."""


def trainers() -> tuple[str, ...]:
    """Names of the trainers of ours."""
    return tuple(_TRAINERS)


def trainer(spec: str) -> Callable[[Sequence[Row]], Defence]:
    """A trainer by name, or `python:module:function`: it takes rows and returns a function from texts to scores.

    Raises:
        ConfigError: There is no such trainer.
    """
    if spec in _TRAINERS:
        return _TRAINERS[spec]()
    kind, _, path = spec.partition(":")
    if kind != "python":
        known = ", ".join((*_TRAINERS, "python:module:function"))
        raise ConfigError(f"there is no trainer {spec}", hint=f"one of {known}")
    function = find_function(path)
    return lambda rows: _Trained(spec, function(rows))


class _Trained:
    """What a trainer of someone else's made: a function from a list of texts to as many scores."""

    def __init__(self, name: str, function: Callable[[list[str]], Sequence[object]]) -> None:
        if not callable(function):
            raise ConfigError(f"{name} does not return a function", hint="return one that takes a list of texts")
        self.name = name
        self._function = function

    def describe(self) -> Description:
        """See `Defence`."""
        return Description(kind="python")

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`."""
        return [read_judgement(value) for value in self._function([item.text for item in items])]

    def close(self) -> None:
        """See `Defence`."""
