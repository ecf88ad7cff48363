# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""injectionguard 0.4.0 as a defence for `shieldwall lab run`: one JSON line in, one out. Runs in the peer's own environment."""

import importlib.metadata
import json
import sys
import time

import injectionguard
import injectionguard.types

VERSION = "0.4.0"


LEVELS = [level.value for level in injectionguard.types.LEVEL_ORDER]


def judge(text: str) -> dict[str, object]:
    """It gives five levels and no score: they are spread evenly from 0 to 1. Any detection makes a text unsafe."""
    found = injectionguard.detect(text)
    return {"score": LEVELS.index(found.threat_level.value) / (len(LEVELS) - 1), "flagged": not found.is_safe}


def main() -> None:
    """Answer until the input ends. Another version than the pinned one would be another figure, so it ends at once."""
    if importlib.metadata.version("injectionguard") != VERSION:
        sys.exit(f"injectionguard {VERSION} is pinned, another version is installed")
    for line in sys.stdin.buffer:
        text = json.loads(line)["text"]
        began = time.process_time_ns()
        try:
            answer = judge(text)
        except Exception as error:  # the range counts it; its words may hold the text
            answer = {"failure": type(error).__name__}
        answer |= {"cpu_us": (time.process_time_ns() - began) / 1000, "name": "injectionguard", "version": VERSION}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
