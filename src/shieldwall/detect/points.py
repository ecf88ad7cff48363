# SPDX-License-Identifier: Apache-2.0
"""Where the learned tiers act: what is in doubt, what is found, and how their opinions are put together.

The packaged numbers were chosen on held-out sources by `shieldwall lab train`.
"""

import math
from importlib import resources
from pathlib import Path

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.detect.odds import sigmoid

__all__ = ["Points", "load_points"]


class Points(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operating points."""

    ask: dict[str, float]
    """By surface the least logit of the fast tier at which the encoder is asked; `default` is for the others."""
    alone: dict[str, float]
    """By surface the least logit at which the fast tier finds an attack where no encoder can be asked."""
    encoder: float = 1.0
    """Weight of the encoder's logit in the joint one, then of the fast tier's, then what is added."""
    fast: float = 0.0
    base: float = 0.0
    found: float = 0.5
    """Least calibrated probability of a finding."""
    harmful: float = 0.9
    """Least calibrated probability of a finding that the text is harmful in itself."""

    def __post_init__(self) -> None:
        if "default" not in self.ask or "default" not in self.alone:
            raise ValueError("ask and alone need a default")
        weights = (self.encoder, self.fast, self.base)
        if not all(math.isfinite(each) for each in (*self.ask.values(), *self.alone.values(), *weights)):
            raise ValueError("points are finite numbers")
        if not (0.0 < self.found < 1.0 and 0.0 < self.harmful < 1.0):
            raise ValueError("found and harmful are probabilities")

    def asks(self, surface: str) -> float:
        """Least logit of the fast tier at which the encoder is asked."""
        return self.ask.get(surface, self.ask["default"])

    def acts(self, surface: str) -> float:
        """Least logit at which the fast tier finds an attack by itself."""
        return self.alone.get(surface, self.alone["default"])

    def joint(self, encoder: float, fast: float) -> float:
        """Calibrated probability of attack for the logits of both tiers about one window."""
        return sigmoid(self.encoder * encoder + self.fast * fast + self.base)


def load_points(path: Path | None = None) -> Points:
    """Read operating points; None for the packaged ones. Raises ConfigError."""
    file = resources.files("shieldwall.detect").joinpath("data/points.json") if path is None else path
    try:
        return msgspec.json.decode(file.read_bytes(), type=Points)
    except OSError as error:
        raise ConfigError(f"the operating points cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ConfigError("the operating points are not what they should be", hint="use those of the package") from None
