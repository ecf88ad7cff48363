# SPDX-License-Identifier: Apache-2.0
"""A Python function as a defence: bring your own in one line."""

import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any

from shieldwall.core.errors import ConfigError
from shieldwall.lab.defence import PROBE, Description, Item, Judged, read_judgement

__all__ = ["Function", "find_function"]


class Function:
    """A Python function."""

    def __init__(self, path: str) -> None:
        """Find the function and learn by a harmless text whether it takes one text or a list of them.

        Args:
            path: `module:function`; the current directory is searched as Python itself would.

        Raises:
            ConfigError: There is no such function, or it gives neither a number nor a list of them.
        """
        self.name = f"python:{path}"
        self._function: Callable[[Any], Any] = find_function(path)
        self._takes_one = self._learn()

    def describe(self) -> Description:
        """See `Defence`."""
        module = sys.modules.get(getattr(self._function, "__module__", "") or "")
        version = getattr(module, "__version__", "")
        return Description(
            kind="python",
            version=version if isinstance(version, str) else "",
            settings={"takes": "text" if self._takes_one else "list"},
        )

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`."""
        if self._takes_one:
            return [read_judgement(self._function(item.text)) for item in items]
        values = self._function([item.text for item in items])
        return [read_judgement(value) for value in _sequence(values)]

    def close(self) -> None:
        """See `Defence`."""

    def _learn(self) -> bool:
        try:
            first = next(iter(signature(self._function).parameters.values()), None)
        except (TypeError, ValueError):
            first = None
        tries: tuple[bool, ...]
        if first is not None and (first.annotation is str or first.annotation == "str"):
            tries = (True,)
        elif first is not None and first.annotation is not first.empty:
            tries = (False,)
        else:
            tries = (False, True)
        for one in tries:
            try:
                value = self._function(PROBE if one else [PROBE])
                values = [value] if one else _sequence(value)
            except Exception:  # noqa: BLE001, S112  it is not ours; the other way is tried, then it is an error
                continue
            if len(values) == 1 and not read_judgement(values[0]).failure:
                return one
        raise ConfigError(
            f"{self.name} gives no score for a harmless sentence",
            hint="it takes a list of texts and returns as many numbers from 0 to 1, or takes one text and returns one",
        )


def find_function(path: str) -> Callable[..., Any]:
    """The function at `module:function`. Raises ConfigError; the module is run by importing it."""
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{path} does not name a function", hint="write python:module:function")
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109  entries of sys.path are strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"python:{path} cannot be loaded: {type(error).__name__}") from error
    if not callable(found):
        raise ConfigError(f"python:{path} is not a function")
    return found  # type: ignore[no-any-return]


def _sequence(value: Any) -> list[Any]:  # noqa: ANN401  whatever the function gave
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError("not a list of scores")
    return list(value)
