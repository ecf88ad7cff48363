# SPDX-License-Identifier: Apache-2.0
"""A defence is anything that can say how likely a text is an attack: ours, another's, over HTTP or in Python.

The range speaks to all of them through one seam. A defence that cannot judge a text says so (`failure`): the text is
then counted as failed, never as passed and never as found.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from shieldwall.core.event import Surface

__all__ = ["PROBE", "Defence", "Description", "Item", "Judged", "read_judgement"]

PROBE = "Good morning. Could you tell me at what time the library opens on Saturdays?"
"""A harmless text with which a defence is tried before it is measured."""


class Item(NamedTuple):
    """One text to judge."""

    text: str
    surface: Surface = Surface.PROMPT


class Judged(NamedTuple):
    """What a defence said of one text."""

    score: float = math.nan
    """How likely an attack, 0 to 1; not a number where there is none because of a `failure`."""
    flagged: bool | None = None
    """The defence's own decision, where it makes one."""
    failure: str = ""
    """Why there is no judgement: a short word for counting, such as `timeout` or `http 503`; else empty."""
    cpu_us: float | None = None
    """CPU time this text took, microseconds, where the work is done in another process that measures itself."""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    kind: str
    """`detector`, `python`, `worker`, `inspect`, `moderations` or `chat`."""
    version: str = ""
    is_local: bool = True
    """Whether the work is done in this process, so that its CPU time can be seen."""
    settings: dict[str, str] = {}
    """What else one has to know to repeat it; never a key."""


class Defence(Protocol):
    """Something to measure."""

    name: str

    def describe(self) -> Description:
        """What it is, for the result file."""
        ...

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """One answer for each item, in order.

        Raises:
            Error: The defence cannot be used at all: measuring ends. Anything else raised fails these items only.
        """
        ...

    def close(self) -> None:
        """Let go of connections and processes."""
        ...


def read_judgement(value: Any) -> Judged:  # noqa: ANN401  whatever the defence gave
    """A number from 0 to 1, or true and false, as a judgement; anything else is a failure."""
    # numpy's truth values are no bool and no number, but mean the same.
    if isinstance(value, bool) or type(value).__name__ in {"bool_", "bool"}:
        return Judged(float(bool(value)), flagged=bool(value))
    if isinstance(value, numbers.Real):
        score = float(value)
        if 0.0 <= score <= 1.0:
            return Judged(score)
        return Judged(failure="score outside 0 to 1")
    return Judged(failure="no score")
