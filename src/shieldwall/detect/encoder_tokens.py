# SPDX-License-Identifier: Apache-2.0
"""How a text is shown to the encoder: windows of word pieces with a mark that says where the text stands."""

from collections.abc import Sequence

__all__ = ["CLS", "HIDDEN_SURFACE", "PAD", "SEP", "UNKNOWN", "WINDOW", "surface_token", "window_starts"]

PAD, UNKNOWN, CLS, SEP = 0, 100, 101, 102
"""Marks of the BERT vocabulary."""
WINDOW = 128
"""Word pieces of a window, its three marks included."""
HIDDEN_SURFACE = 7
_SURFACES = {"prompt": 1, "document": 2, "tool_result": 3, "system": 4, "tool_definition": 5, "response": 6}
"""Unused pieces of the vocabulary."""


def surface_token(surface: str) -> int:
    """The mark of a surface; one mark is for all that are none of the known ones."""
    return _SURFACES.get(surface, HIDDEN_SURFACE)


def window_starts(pieces: int, room: int = WINDOW - 3) -> Sequence[int]:
    """Where the windows of a text of so many pieces begin: half of each is in the next, too, and the last is full."""
    if pieces <= room:
        return (0,)
    return (*range(0, pieces - room, room // 2), pieces - room)
