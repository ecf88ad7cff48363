# SPDX-License-Identifier: Apache-2.0
"""The weight file of the fast tier: a NumPy archive of arrays with a header in JSON.

A file that is cut off, damaged, or made for something else is a clear error; nothing in it is ever executed.
"""

import io
import math
import zipfile
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.detect.classes import CLASSES

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BLOCK", "SPAN", "FastHeader", "FastWeights", "decode", "encode"]

BLOCK: Final = 24
"""Words from one window to the next; a window has twice as many: about a paragraph."""
SPAN: Final = 5
"""Words that a response of a filter is made from."""
_HINT: Final = "use the file that came with the package, or one that `shieldwall lab train` wrote"
_MAX_BYTES: Final = 64 << 20
_MAX_ROWS: Final = 1 << 20
_SURFACES: Final = 8
_MAX_SIZE: Final = 1024
"""Of any other axis."""
_GREATEST: Final = 1e4
"""Of any number, so that no sum of products overflows; learnt ones are a hundred times smaller."""


class FastHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is no array."""

    slope: float = 1.0
    """Calibration: the logit of attack is `slope * raw + offset`."""
    offset: float = 0.0
    harm_slope: float = 1.0
    """The same for harmful against all else."""
    harm_offset: float = 0.0
    version: str = ""

    def __post_init__(self) -> None:
        numbers = (self.slope, self.offset, self.harm_slope, self.harm_offset)
        if not all(map(math.isfinite, numbers)) or not self.slope or not self.harm_slope:
            raise ValueError("slopes and offsets are finite numbers, and no slope is zero")


class FastWeights(NamedTuple):
    """Everything learnt. A word is the sum of two rows; a row times a filter is what it adds to a response."""

    header: FastHeader
    words: "np.ndarray"
    """Hashes of the known words, uint32, (words,)."""
    rows: "np.ndarray"
    """int8, (rows, width): of what is no word, of pieces of unknown words, of the known words."""
    steps: "np.ndarray"
    """What one step of each row is worth, float32, (rows,)."""
    filters: "np.ndarray"
    """float32, (span, width, filters)."""
    filter_bias: "np.ndarray"
    """float32, (filters,)."""
    hidden: "np.ndarray"
    """float32, (2 * filters, hidden): of the greatest response of each filter in a window, then of the mean."""
    surfaces: "np.ndarray"
    """Bias of the hidden layer by surface, float32, (surfaces, hidden)."""
    last: "np.ndarray"
    """float32, (hidden, classes)."""
    last_bias: "np.ndarray"
    """float32, (classes,)."""


def encode(weights: FastWeights) -> bytes:
    """The file of these weights; the same weights give the same bytes."""
    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in weights._asdict().items():
            data = io.BytesIO()
            array = np.frombuffer(msgspec.json.encode(value), np.uint8) if name == "header" else value
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            # A fixed date: the archive is a pure function of the weights.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def decode(data: bytes, name: str) -> FastWeights:
    """Read a weight file.

    Args:
        data: Its bytes.
        name: What to call it in errors.

    Raises:
        ConfigError: It is truncated, damaged, or no such file.
    """
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{name} is larger than any weights of the fast tier", hint=_HINT)
    try:
        weights = _unpack(data, name)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  for damaged bytes zipfile, zlib and numpy raise a dozen classes with no other base
        raise ConfigError(f"{name} holds no weights of the fast tier, or is damaged", hint=_HINT) from None
    if not _fits(weights):
        raise ConfigError(f"{name} holds arrays that do not fit each other", hint=_HINT)
    return weights


def _unpack(data: bytes, name: str) -> FastWeights:
    import numpy as np

    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > 4 * _MAX_BYTES:
            raise ConfigError(f"{name} unpacks to more than any weights of the fast tier", hint=_HINT)
        for field in FastWeights._fields:
            with archive.open(f"{field}.npy") as member:
                arrays[field] = np.lib.format.read_array(member, allow_pickle=False)
    return FastWeights(msgspec.json.decode(arrays.pop("header").tobytes(), type=FastHeader), **arrays)


def _fits(weights: FastWeights) -> bool:
    """Whether kinds and shapes are what they should be, and all numbers are numbers."""
    import numpy as np

    _, words, rows, steps, filters, bias, hidden, surfaces, last, last_bias = weights
    if words.dtype != np.uint32 or rows.dtype != np.int8 or words.ndim != 1 or rows.ndim != 2:
        return False
    real = (steps, filters, bias, hidden, surfaces, last, last_bias)
    # Written so that what is no number fails, too.
    if any(each.dtype != np.float32 or not (np.abs(each) <= _GREATEST).all() for each in real) or filters.ndim != 3:
        return False
    span, width, count = filters.shape
    if not (1 <= width <= _MAX_SIZE and 1 <= count <= _MAX_SIZE and len(rows) <= _MAX_ROWS) or hidden.ndim != 2:
        return False
    inner = hidden.shape[1]
    return (
        (rows.shape, steps.shape, bias.shape) == ((len(rows), width), (len(rows),), (count,))
        and hidden.shape == (2 * count, inner)
        and 1 <= inner <= _MAX_SIZE
        and surfaces.shape == (_SURFACES, inner)
        and last.shape == (inner, len(CLASSES))
        and last_bias.shape == (len(CLASSES),)
        and span == SPAN
    )
