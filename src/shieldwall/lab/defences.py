# SPDX-License-Identifier: Apache-2.0
"""Which defences there are: names and specifications, as a person types them.

cascade                  all tiers of ours together, as a node runs them; `rules`, `fast` and `encoder` are one each
encoder:DIR              another encoder: a folder with an ONNX sequence classifier
fast:FILE                other weights of the fast tier
python:module:function   a function that takes a list of texts (or one text) and gives scores, or true and false
worker:command …         a program that answers JSON lines, in its own environment: see `worker`
inspect:URL              Shieldwall's `POST /v1/inspect`
moderations:URL          the moderations dialect of OpenAI
chat:URL#model           a chat endpoint, whose refusals count
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from shieldwall.core.errors import ConfigError
from shieldwall.core.event import Direction, Event, Segment, Surface
from shieldwall.core.ports import Detector
from shieldwall.core.verdict import attack_score
from shieldwall.lab.defence import Defence, Description, Item, Judged
from shieldwall.lab.function import Function
from shieldwall.lab.tiers import EncoderDefence, FastDefence

__all__ = ["DetectorDefence", "builtin", "make", "names"]


class DetectorDefence:
    """A detector of ours: its score is the highest of its findings that speak of an attack."""

    def __init__(self, name: str, detector: Detector, version: str) -> None:
        self.name = name
        self._detector = detector
        self._version = version

    def describe(self) -> Description:
        """See `Defence`."""
        return Description(kind="detector", version=self._version)

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`. A detector scores, it does not decide: policy does."""
        return [Judged(attack_score(self._detector.judge(_event(item)))) for item in items]

    def close(self) -> None:
        """See `Defence`."""


def _event(item: Item) -> Event:
    direction = Direction.RESPONSE if item.surface is Surface.RESPONSE else Direction.REQUEST
    return Event(
        id="00000000-0000-7000-8000-000000000000",
        time=datetime.fromtimestamp(0, UTC),
        direction=direction,
        segments=(Segment(item.text, surface=item.surface),),
    )


def _rules() -> Defence:
    from shieldwall.detect import RuleDetector

    detector = RuleDetector()
    return DetectorDefence("rules", detector, detector.version)


def _fast() -> Defence:
    from shieldwall.detect import FastTier

    return FastDefence(FastTier())


def _encoder() -> Defence:
    from shieldwall.detect import Encoder

    return EncoderDefence(Encoder())


def _cascade() -> Defence:
    from shieldwall.detect import RuleDetector, make_cascade

    detector = make_cascade(RuleDetector())
    return DetectorDefence("cascade", detector, detector.version)


_BUILTIN: dict[str, Callable[[], Defence]] = {
    "rules": _rules,
    "fast": _fast,
    "encoder": _encoder,
    "cascade": _cascade,
}
"""Detectors of ours by name. A new tier adds its line here."""


def names() -> tuple[str, ...]:
    """Names of the detectors of ours."""
    return tuple(_BUILTIN)


def builtin(name: str) -> Defence:
    """A detector of ours. Raises ConfigError where there is none of that name."""
    if name not in _BUILTIN:
        raise ConfigError(
            f"there is no defence {name}",
            hint=f"one of {', '.join(_BUILTIN)}, fast:FILE, encoder:DIR, python:module:function, worker:…, inspect:…,"
            " moderations:…, chat:…",
        )
    return _BUILTIN[name]()


def make(spec: str) -> Defence:
    """The defence that a specification names; the forms stand at the head of this module.

    Raises:
        ConfigError: There is no such defence, or it cannot be made.
    """
    kind, colon, rest = spec.partition(":")
    if not colon:
        return builtin(spec)
    match kind:
        case "fast":
            from shieldwall.detect import FastTier

            return FastDefence(FastTier(Path(rest)))
        case "encoder":
            from shieldwall.detect import Encoder

            return EncoderDefence(Encoder(Path(rest)))
        case "python":
            return Function(rest)
        case "worker":
            from shieldwall.lab.worker import Worker

            return Worker(rest)
        case "inspect" | "moderations" | "chat":
            # HTTP and TLS take longer to load than all the rest of the command line.
            from shieldwall.lab.endpoint import endpoint

            return endpoint(kind, rest)
        case _:
            return builtin(spec)
